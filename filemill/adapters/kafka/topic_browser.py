"""Browsing a topic without a group, page by page: records from an offset, from a timestamp, or the newest first.

Records of several partitions are merged by timestamp; the order within a partition is kept. A page ends at a position
of each partition, where the next page continues.
"""

import contextlib
import heapq
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec
from confluent_kafka import Consumer, Message, TopicPartition

from filemill.adapters.kafka.client import UnreadableHeaders, headers_of, kafka_errors, new_client
from filemill.adapters.kafka.reader import (
    LATEST_TIMESTAMP_MILLISECONDS,
    QUEUE_KILOBYTES,
    messages_until,
    reader_config,
    timestamp_of,
)
from filemill.config.settings import Settings
from filemill.domain.consumer_groups import LogOffsets

# At most this many records and bytes are buffered at a time.
MAX_BUFFERED_RECORDS = 5000
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
    `positions`: partitions and offsets where the previous page ended (its `positions`); empty for the first page.
    """

    topic: str
    partition: int | None
    start: int | datetime | None
    text: str
    limit: int
    positions: tuple[tuple[int, int], ...] = ()


class BrowseResult(msgspec.Struct, frozen=True):
    """The matching records, newest first; `partitions` has the begin and end of each partition of the topic.

    `scanned`: how many records were looked at for this page. `looked_at` counts those of all pages up to this one, and
    `total` all that can be looked at, both by their offsets. `positions`: where the next page continues, by partition:
    at these offsets, or for the newest records, before them. `more`: whether there are records for a next page.
    """

    records: list[BrowsedRecord]
    scanned: int
    partitions: list[LogOffsets]
    looked_at: int = 0
    total: int = 0
    positions: dict[int, int] = {}
    more: bool = False


def browse(
    settings: Settings,
    partitions: Sequence[LogOffsets],
    query: BrowseQuery,
    max_bytes: int = MAX_BUFFERED_BYTES,
    *,
    scan_seconds: float = 0.0,
) -> BrowseResult:
    """Run a query; `partitions` are the offsets of the topic. Buffers about `max_bytes`. Raises Unavailable.

    A filter looks at about `MAX_BUFFERED_RECORDS`; and at more for up to `scan_seconds`, until enough match.
    """
    deadline = time.monotonic() + scan_seconds
    chosen = [part for part in partitions if query.partition in (None, part.partition)]
    begins = {part.partition: part.begin or 0 for part in chosen}
    ends = {part.partition: part.end or 0 for part in chosen}
    newest, text = query.start is None, query.text.lower()
    starts = begins if newest else _starts(settings, chosen, query)
    positions = dict(ends if newest else starts)
    positions |= {partition: offset for partition, offset in query.positions if partition in positions}
    # Retention may have removed records since the previous page, and a recreated topic ends earlier.
    positions = {number: min(max(begins[number], offset), ends[number]) for number, offset in positions.items()}
    found: list[BrowsedRecord] = []
    scanned = kept_bytes = 0
    while True:
        for record in _window(settings, query, positions, starts if newest else ends, max_bytes - kept_bytes):
            scanned += 1
            if not text or text in _searchable_text(record):
                found.append(record)
                kept_bytes += _size(record)
            if len(found) == query.limit:
                break
        more = any(positions[number] != (starts if newest else ends)[number] for number in positions)
        enough = len(found) == query.limit or kept_bytes >= max_bytes or bool(found and not text)
        if not more or enough or (text and time.monotonic() >= deadline):
            break
    looked_at = sum(abs(positions[number] - (ends if newest else starts)[number]) for number in positions)
    total = sum(max(0, ends[number] - starts[number]) for number in positions)
    return BrowseResult(found if newest else found[::-1], scanned, list(partitions), looked_at, total, positions, more)


def _window(
    settings: Settings, query: BrowseQuery, positions: dict[int, int], limits: Mapping[int, int], max_bytes: int
) -> Iterator[BrowsedRecord]:
    """Read some records of each partition from its position on, towards its limit, and merge them.

    `positions` is moved with each record, so that it is right wherever the caller stops.
    """
    most = max(1, MAX_BUFFERED_RECORDS // max(1, len(positions)))
    most = most if query.text else min(most, query.limit)
    share = max(1, max_bytes // max(1, len(positions)))
    newest = query.start is None
    buffers = [
        _PartitionBuffer(number, max(limits[number], at - most), at, most, share)
        if newest
        else _PartitionBuffer(number, at, limits[number], most, share)
        for number, at in positions.items()
    ]
    _fill(settings, query.topic, buffers, newest=newest)
    for buffer in buffers:
        if newest:
            buffer.ended = buffer.whole and buffer.start <= limits[buffer.partition]
        if not buffer.records:
            positions[buffer.partition] = buffer.start if newest else buffer.end
    yield from _merged_backwards(buffers, positions) if newest else _merged(buffers, positions)


class _PartitionBuffer:
    """Buffers records of one partition between two offsets: at most `most` and `most_bytes`, but at least one record.

    `ended`: there are no records beyond those in the buffer, in the direction of reading. `whole`: none was dropped.
    """

    def __init__(self, partition: int, start: int, end: int, most: int, most_bytes: int) -> None:
        self.partition = partition
        self.start = start
        self.end = end
        self.ended = self.whole = True
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
            self.whole = False


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


def _merged(buffers: Sequence[_PartitionBuffer], positions: dict[int, int]) -> Iterator[BrowsedRecord]:
    """Merge by timestamp, up to the last buffered record of a partition that was not read to its end.

    A record without a timestamp, or with an earlier one than its predecessor, follows its predecessor.
    """
    heads = [(buffer.records[0].timestamp_ms or 0, number) for number, buffer in enumerate(buffers) if buffer.records]
    heapq.heapify(heads)
    while heads:
        timestamp, number = heapq.heappop(heads)
        buffer = buffers[number]
        record = buffer.records.popleft()
        exhausted = buffer.ended and not buffer.records
        positions[buffer.partition] = buffer.end if exhausted else record.offset + 1
        yield record
        if buffer.records:
            heapq.heappush(heads, (max(timestamp, buffer.records[0].timestamp_ms or 0), number))
        elif not buffer.ended:
            return


def _merged_backwards(buffers: Sequence[_PartitionBuffer], positions: dict[int, int]) -> Iterator[BrowsedRecord]:
    """Merge by timestamp, the newest first, down to the first buffered record of a partition that has older ones.

    A record without a timestamp, or with a later one than its successor, follows its successor.
    """
    if any(not buffer.records and not buffer.ended for buffer in buffers):
        return  # offsets without records: the older records of that partition may be newer than all others
    heads = [(-_newest_ms(buffer), number) for number, buffer in enumerate(buffers) if buffer.records]
    heapq.heapify(heads)
    while heads:
        negated, number = heapq.heappop(heads)
        buffer = buffers[number]
        record = buffer.records.pop()
        exhausted = buffer.ended and not buffer.records
        positions[buffer.partition] = buffer.start if exhausted else record.offset
        yield record
        if buffer.records:
            heapq.heappush(heads, (max(negated, -_newest_ms(buffer)), number))
        elif not buffer.ended:
            return


def _newest_ms(buffer: _PartitionBuffer) -> int:
    """The timestamp of the last buffered record. One without a timestamp follows its successor, whatever that has."""
    timestamp = buffer.records[-1].timestamp_ms
    return LATEST_TIMESTAMP_MILLISECONDS if timestamp is None else timestamp


def _starts(settings: Settings, partitions: Sequence[LogOffsets], query: BrowseQuery) -> dict[int, int]:
    """The first offset that a query from an offset or a time looks at, by partition."""
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
    return {partition: min(max(begin, query.start or 0), ends[partition]) for partition, begin in begins.items()}


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
