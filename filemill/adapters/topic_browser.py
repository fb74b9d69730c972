"""Looking into a topic: some records from an offset, a moment or the end, in no group."""

import contextlib
from collections.abc import Sequence
from datetime import datetime
from itertools import islice

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, Message, TopicPartition

from filemill.adapters.kafka import client_config, headers_of, kafka_errors
from filemill.adapters.kafka_admin import PartitionOffsets
from filemill.adapters.kafka_reader import messages_to_end
from filemill.settings import Settings

# A filter looks at no more than this many records at a time.
SCANNED_MAX = 5000


class Browsed(msgspec.Struct, frozen=True):
    """A record as it is on the topic."""

    partition: int
    offset: int
    timestamp_ms: int | None
    key: str | None
    value: bytes | None
    headers: list[tuple[str, str]]


class Look(msgspec.Struct, frozen=True):
    """Where to look: `partition` None is all of them; `start` an offset, a moment, or None for the newest `limit`."""

    topic: str
    partition: int | None
    start: int | datetime | None
    text: str
    limit: int


class View(msgspec.Struct, frozen=True):
    """What was found, newest first, among `scanned` records; `spans` is where each partition begins and ends."""

    records: list[Browsed]
    scanned: int
    spans: list[PartitionOffsets]


def browse(settings: Settings, spans: Sequence[PartitionOffsets], look: Look) -> View:
    """Read what `look` asks for. Raises retry.Unavailable."""
    chosen = [span for span in spans if look.partition in (None, span.partition)]
    consumer = Consumer(
        client_config(
            settings,
            "browser",
            **{"group.id": "filemill-browser", "enable.auto.commit": False, "auto.offset.reset": "earliest"},
        )
    )
    try:
        with kafka_errors(settings):
            starts = _starts(consumer, chosen, look, settings.server_timeout_seconds)
    finally:
        consumer.close()
    messages = _read(settings, chosen, starts, look)
    wanted = look.text.lower()
    records = [_record(message) for message in messages]
    found = [record for record in records if not wanted or wanted in _haystack(record)]
    newest = sorted(found, key=lambda record: (record.timestamp_ms or 0, record.offset, record.partition), reverse=True)
    kept = newest[: look.limit] if look.start is None else newest[-look.limit :]
    return View(kept, len(records), list(spans))


def _starts(
    consumer: Consumer, spans: Sequence[PartitionOffsets], look: Look, timeout_seconds: float
) -> dict[int, int]:
    """Where to begin in each partition."""
    if isinstance(look.start, datetime):
        moment = int(look.start.timestamp() * 1000)
        parts = [TopicPartition(look.topic, span.partition, moment) for span in spans]
        found = consumer.offsets_for_times(parts, timeout=timeout_seconds) if parts else []
        ends = {span.partition: span.end or 0 for span in spans}
        return {part.partition: part.offset if part.offset >= 0 else ends[part.partition] for part in found}
    if look.start is not None:
        return {span.partition: max(span.begin or 0, look.start) for span in spans}
    back = SCANNED_MAX // max(1, len(spans)) if look.text else look.limit
    return {span.partition: max(span.begin or 0, (span.end or 0) - back) for span in spans}


def _read(settings: Settings, spans: Sequence[PartitionOffsets], starts: dict[int, int], look: Look) -> list[Message]:
    """Records from there on, to the ends as they were, or to as many as are looked at."""
    ends = {span.partition: span.end for span in spans if span.end and starts[span.partition] < span.end}
    most = SCANNED_MAX if look.text or look.start is None else look.limit
    with contextlib.closing(messages_to_end(settings, look.topic, starts, ends, "browser")) as messages:
        return list(islice(messages, most))


def _record(message: Message) -> Browsed:
    kind, stamp = message.timestamp()
    key = message.key()
    headers = [(name, value.decode(errors="backslashreplace")) for name, value in headers_of(message)]
    return Browsed(
        message.partition() or 0,
        message.offset() or 0,
        None if kind == TIMESTAMP_NOT_AVAILABLE else stamp,
        None if key is None else _text(key),
        message.value(),
        headers,
    )


def _text(value: bytes | str | None) -> str:
    return value if isinstance(value, str) else (value or b"").decode(errors="backslashreplace")


def _haystack(record: Browsed) -> str:
    headers = " ".join(f"{name}={value}" for name, value in record.headers)
    return f"{record.key or ''} {_text(record.value)} {headers}".lower()
