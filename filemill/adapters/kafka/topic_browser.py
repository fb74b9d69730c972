"""Browsing a topic without a group: some records from an offset, from a timestamp, or the newest.

Records of several partitions are merged by timestamp; the order within a partition is kept.
"""

import contextlib
import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec
from confluent_kafka import Consumer, Message, TopicPartition

from filemill.adapters.kafka.client import UnreadableHeaders, headers_of, kafka_errors, new_client
from filemill.adapters.kafka.reader import QUEUE_KILOBYTES, messages_until, reader_config, timestamp_of
from filemill.config.settings import Settings
from filemill.domain.consumer_groups import LogOffsets

# A query scans at most this many records and buffers at most this many bytes.
MAX_SCANNED_RECORDS = 5000
MAX_BUFFERED_BYTES = 32 * 1024 * 1024
# The broker delays an empty response by this time; the default is half a second.
CLIENT = {"queued.max.messages.kbytes": QUEUE_KILOBYTES, "fetch.wait.max.ms": 50}


class BrowsedRecord(msgspec.Struct, frozen=True):
    """A record of the topic, unparsed.

    None in key, value or a header's value means null, not empty. `timestamp_ms` is None if the record has none;
    `invalid_timestamp` has one outside the years 1970 to 9999. `headers_error`: why the headers cannot be read.
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
    """What to read. `partition`: None for all. `start`: an offset, a time, or None for the newest records.

    `text`: only records that contain it, in any case; empty for all. `limit`: the most records to return.
    """

    topic: str
    partition: int | None
    start: int | datetime | None
    text: str
    limit: int


class BrowseResult(msgspec.Struct, frozen=True):
    """The matching records, newest first, of `scanned` ones; `partitions` has the begin and end of each partition.

    `next_offsets`: with a `start`, the next offset of each partition that has more records to scan.
    """

    records: list[BrowsedRecord]
    scanned: int
    partitions: list[LogOffsets]
    next_offsets: dict[int, int] = {}


def browse(
    settings: Settings, partitions: Sequence[LogOffsets], query: BrowseQuery, max_bytes: int = MAX_BUFFERED_BYTES
) -> BrowseResult:
    """Run a query; `partitions` are the offsets of the topic. Buffers about `max_bytes`. Raises Unavailable."""
    chosen = [part for part in partitions if query.partition in (None, part.partition)]
    most = max(1, MAX_SCANNED_RECORDS // max(1, len(chosen)))
    most = most if query.text else min(most, query.limit)
    starts = _starts(settings, chosen, query, most)
    share = max_bytes // max(1, len(chosen))
    buffers = [_PartitionBuffer(part.partition, starts[part.partition], part.end or 0, most, share) for part in chosen]
    _fill(settings, query.topic, buffers, newest=query.start is None)
    text = query.text.lower()
    if query.start is None:
        records = [record for buffer in buffers for record in buffer.records]
        found = [record for record in records if not text or text in _searchable_text(record)]
        found.sort(key=lambda record: (record.timestamp_ms or 0, record.offset, record.partition), reverse=True)
        return BrowseResult(found[: query.limit], len(records), list(partitions))
    found, scanned = [], 0
    for record in _merged(buffers):
        scanned += 1
        if not text or text in _searchable_text(record):
            found.append(record)
        if len(found) == query.limit:
            break
    next_offsets = {buffer.partition: buffer.next for buffer in buffers if buffer.next < buffer.end}
    return BrowseResult(found[::-1], scanned, list(partitions), next_offsets)


class _PartitionBuffer:
    """Buffers records of one partition: at most `most` and `most_bytes`, but at least one record.

    `ended`: the partition has no more records. `next` is the next offset to scan.
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
        """Append a record."""
        self.records.append(record)
        self._bytes += _size(record)

    @property
    def full(self) -> bool:
        """Whether there is no room for another record."""
        return len(self.records) >= self._most or self._bytes >= self._most_bytes

    def make_room(self) -> None:
        """Drop the oldest records."""
        while self.full:
            self._bytes -= _size(self.records.popleft())


def _fill(settings: Settings, topic: str, buffers: Sequence[_PartitionBuffer], *, newest: bool) -> None:
    """Read up to the ends and keep the newest records; or read from the starts until each buffer is full."""
    by_partition = {buffer.partition: buffer for buffer in buffers}
    starts = {buffer.partition: buffer.start for buffer in buffers}
    ends = {buffer.partition: buffer.end for buffer in buffers if buffer.start < buffer.end}

    def enough(message: Message) -> bool:
        buffer = by_partition[message.partition() or 0]
        buffer.ended = newest or not buffer.full or (message.offset() or 0) + 1 >= buffer.end
        return not buffer.ended

    for message in messages_until(settings, topic, starts, ends, "browser", enough, **CLIENT):
        buffer = by_partition[message.partition() or 0]
        if newest:
            buffer.make_room()
        buffer.add(_record(message))
    for buffer in buffers:
        if not buffer.records:
            buffer.next = buffer.end


def _merged(buffers: Sequence[_PartitionBuffer]) -> Iterator[BrowsedRecord]:
    """Merge by timestamp, up to the last buffered record of a partition that was not read to its end.

    A record without a timestamp, or with an earlier one than its predecessor, follows its predecessor.
    """
    heads = [(buffer.records[0].timestamp_ms or 0, number) for number, buffer in enumerate(buffers) if buffer.records]
    heapq.heapify(heads)
    while heads:
        timestamp, number = heapq.heappop(heads)
        buffer = buffers[number]
        record = buffer.records.popleft()
        buffer.next = record.offset + 1
        if buffer.ended and not buffer.records:
            buffer.next = buffer.end
        yield record
        if buffer.records:
            heapq.heappush(heads, (max(timestamp, buffer.records[0].timestamp_ms or 0), number))
        elif not buffer.ended:
            return


def _starts(settings: Settings, partitions: Sequence[LogOffsets], query: BrowseQuery, most: int) -> Mapping[int, int]:
    """The first offset to read, by partition."""
    begins = {part.partition: part.begin or 0 for part in partitions}
    ends = {part.partition: part.end or 0 for part in partitions}
    if isinstance(query.start, datetime):
        timestamp = max(0, int(query.start.timestamp() * 1000))
        parts = [TopicPartition(query.topic, part.partition, timestamp) for part in partitions]
        consumer = new_client(Consumer, reader_config(settings, "browser"))
        with contextlib.closing(consumer), kafka_errors(settings):
            timeout = settings.server_timeout_seconds
            found = consumer.offsets_for_times(parts, timeout=timeout) if parts else []
        return {part.partition: part.offset if part.offset >= 0 else ends[part.partition] for part in found}
    if query.start is not None:
        return {partition: max(begin, query.start) for partition, begin in begins.items()}
    return {partition: max(begins[partition], end - most) for partition, end in ends.items()}


def _record(message: Message) -> BrowsedRecord:
    try:
        headers, error = headers_of(message), None
    except UnreadableHeaders as unreadable:
        headers, error = [], str(unreadable)
    timestamp, raw_timestamp = timestamp_of(message), message.timestamp()[1]
    return BrowsedRecord(
        message.partition() or 0,
        message.offset() or 0,
        timestamp,
        _text(message.key()),
        message.value(),
        [(name, _text(value)) for name, value in headers],
        error,
        raw_timestamp if timestamp is None and raw_timestamp not in (-1, 0) else None,
    )


def _text(value: bytes | str | None) -> str | None:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _size(record: BrowsedRecord) -> int:
    """Its approximate size in memory, in bytes."""
    headers = sum(len(name) + len(value or "") for name, value in record.headers)
    return len(record.key or "") + len(record.value or b"") + headers + 500


def _searchable_text(record: BrowsedRecord) -> str:
    headers = " ".join(f"{name}={value if value is not None else ''}" for name, value in record.headers)
    return f"{record.key or ''} {_text(record.value) or ''} {headers} {record.headers_error or ''}".lower()
