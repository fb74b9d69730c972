"""Looking into a topic: some records from an offset, a moment or the end, in no group.

Records of several partitions are merged by their timestamps; the order within a partition is kept.
"""

import contextlib
import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec
from confluent_kafka import Consumer, Message, TopicPartition

from filemill.adapters.kafka.admin import LogOffsets
from filemill.adapters.kafka.client import UnreadableHeaders, headers_of, kafka_errors, new_client
from filemill.adapters.kafka.reader import QUEUE_KILOBYTES, messages_until, reader_config, timestamp_of
from filemill.config.settings import Settings

# A filter looks at no more than this many records at a time, and no look holds more than these bytes.
MAX_SCANNED_RECORDS = 5000
MAX_BUFFERED_BYTES = 32 * 1024 * 1024
# A broker holds back the answer that a partition has nothing more: by default for half a second.
CLIENT = {"queued.max.messages.kbytes": QUEUE_KILOBYTES, "fetch.wait.max.ms": 50}


class BrowsedRecord(msgspec.Struct, frozen=True):
    """A record as it is on the topic.

    Of key, value and a header's value, None is null, which is not empty. `timestamp_ms` is None where there is none, or
    where `odd_timestamp` has one that is no moment of the years 1970 to 9999. `headers_error`: why the headers cannot
    be read.
    """

    partition: int
    offset: int
    timestamp_ms: int | None
    key: str | None
    value: bytes | None
    headers: list[tuple[str, str | None]]
    headers_error: str | None = None
    invalid_timestamp: int | None = None


class BrowseQuery(msgspec.Struct, frozen=True):
    """Where to look: `partition` None is all of them; `start` an offset, a moment, or None for the newest `limit`."""

    topic: str
    partition: int | None
    start: int | datetime | None
    text: str
    limit: int


class BrowseResult(msgspec.Struct, frozen=True):
    """What was found, newest first, among `scanned` records; `spans` is where each partition begins and ends.

    `left`: from a start on, the offset in each partition from which nothing was looked at, though there is more.
    """

    records: list[BrowsedRecord]
    scanned: int
    partitions: list[LogOffsets]
    next_offsets: dict[int, int] = {}


def browse(settings: Settings, spans: Sequence[LogOffsets], look: BrowseQuery) -> BrowseResult:
    """Read what `look` asks for. Raises Unavailable."""
    chosen = [span for span in spans if look.partition in (None, span.partition)]
    most = max(1, MAX_SCANNED_RECORDS // max(1, len(chosen)))
    most = most if look.text else min(most, look.limit)
    starts = _starts(settings, chosen, look, most)
    share = MAX_BUFFERED_BYTES // max(1, len(chosen))
    logs = [_PartitionBuffer(span.partition, starts[span.partition], span.end or 0, most, share) for span in chosen]
    _read(settings, look.topic, logs, newest=look.start is None)
    wanted = look.text.lower()
    if look.start is None:
        records = [record for log in logs for record in log.records]
        found = [record for record in records if not wanted or wanted in _haystack(record)]
        found.sort(key=lambda record: (record.timestamp_ms or 0, record.offset, record.partition), reverse=True)
        return BrowseResult(found[: look.limit], len(records), list(spans))
    found, scanned = [], 0
    for record in _merged(logs):
        scanned += 1
        if not wanted or wanted in _haystack(record):
            found.append(record)
        if len(found) == look.limit:
            break
    left = {log.partition: log.next for log in logs if log.next < log.end}
    return BrowseResult(found[::-1], scanned, list(spans), left)


class _PartitionBuffer:
    """What is held of one partition: `most` records, and no more than `most_bytes`, but one at least.

    `ended`: there are no more. `next` is the offset from which on nothing was looked at.
    """

    def __init__(self, partition: int, start: int, end: int, most: int, most_bytes: int) -> None:
        self.partition = partition
        self.start = self.next = start
        self.end = end
        self.ended = True
        self.records: deque[BrowsedRecord] = deque()
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0

    def add(self, record: BrowsedRecord) -> None:
        """The next one."""
        self.records.append(record)
        self._bytes += _size(record)

    @property
    def full(self) -> bool:
        """Whether there is no room for another one."""
        return len(self.records) >= self._most or self._bytes >= self._most_bytes

    def make_room(self) -> None:
        """Drop the oldest."""
        while self.full:
            self._bytes -= _size(self.records.popleft())


def _read(settings: Settings, topic: str, logs: Sequence[_PartitionBuffer], *, newest: bool) -> None:
    """To the ends, of which the newest are kept; or from the starts on, until each has enough."""
    by_partition = {log.partition: log for log in logs}
    starts = {log.partition: log.start for log in logs}
    ends = {log.partition: log.end for log in logs if log.start < log.end}

    def enough(message: Message) -> bool:
        log = by_partition[message.partition() or 0]
        log.ended = newest or not log.full or (message.offset() or 0) + 1 >= log.end
        return not log.ended

    for message in messages_until(settings, topic, starts, ends, "browser", enough, **CLIENT):
        log = by_partition[message.partition() or 0]
        if newest:
            log.make_room()
        log.add(_record(message))
    for log in logs:
        if not log.records:
            log.next = log.end


def _merged(logs: Sequence[_PartitionBuffer]) -> Iterator[BrowsedRecord]:
    """By timestamp, as far as all partitions are known: one that was not read to its end stops it where it was left.

    A record without a timestamp, or with an earlier one than a record before it, follows that record.
    """
    turns = [(log.records[0].timestamp_ms or 0, number) for number, log in enumerate(logs) if log.records]
    heapq.heapify(turns)
    while turns:
        moment, number = heapq.heappop(turns)
        log = logs[number]
        record = log.records.popleft()
        log.next = record.offset + 1
        if log.ended and not log.records:
            log.next = log.end
        yield record
        if log.records:
            heapq.heappush(turns, (max(moment, log.records[0].timestamp_ms or 0), number))
        elif not log.ended:
            return


def _starts(settings: Settings, spans: Sequence[LogOffsets], look: BrowseQuery, most: int) -> Mapping[int, int]:
    """Where to begin in each partition."""
    begins = {span.partition: span.begin or 0 for span in spans}
    ends = {span.partition: span.end or 0 for span in spans}
    if isinstance(look.start, datetime):
        moment = max(0, int(look.start.timestamp() * 1000))
        parts = [TopicPartition(look.topic, span.partition, moment) for span in spans]
        consumer = new_client(Consumer, reader_config(settings, "browser"))
        with contextlib.closing(consumer), kafka_errors(settings):
            timeout = settings.server_timeout_seconds
            found = consumer.offsets_for_times(parts, timeout=timeout) if parts else []
        return {part.partition: part.offset if part.offset >= 0 else ends[part.partition] for part in found}
    if look.start is not None:
        return {partition: max(begin, look.start) for partition, begin in begins.items()}
    return {partition: max(begins[partition], end - most) for partition, end in ends.items()}


def _record(message: Message) -> BrowsedRecord:
    try:
        headers, error = headers_of(message), None
    except UnreadableHeaders as unreadable:
        headers, error = [], str(unreadable)
    timestamp, stamp = timestamp_of(message), message.timestamp()[1]
    return BrowsedRecord(
        message.partition() or 0,
        message.offset() or 0,
        timestamp,
        _text(message.key()),
        message.value(),
        [(name, _text(value)) for name, value in headers],
        error,
        stamp if timestamp is None and stamp not in (-1, 0) else None,
    )


def _text(value: bytes | str | None) -> str | None:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _size(record: BrowsedRecord) -> int:
    """Roughly what it holds in memory."""
    headers = sum(len(name) + len(value or "") for name, value in record.headers)
    return len(record.key or "") + len(record.value or b"") + headers + 500


def _haystack(record: BrowsedRecord) -> str:
    headers = " ".join(f"{name}={value if value is not None else ''}" for name, value in record.headers)
    return f"{record.key or ''} {_text(record.value) or ''} {headers} {record.headers_error or ''}".lower()
