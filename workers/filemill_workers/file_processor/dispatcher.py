"""Fetched records that are not in progress yet: which one starts next, and which partitions are read. Pure.

The client returns records in the order in which it fetched them, and pausing a partition drops its prefetched records.
If a worker started records in that order and paused all partitions when it is full, it would process one partition at a
time and wait for a fetch after each pause. So fetched records wait here, in a short queue for each partition. The
partition with the fewest records in progress starts the next one, and a partition is paused only while its own queue is
full.

Three limits apply: the records in progress of the worker (its places, which its queues share), the records in progress
of one partition, and the distance of a partition's newest record from its oldest unfinished one. The last limit keeps
the finished offsets above the committed one small enough for the metadata of a commit.
"""

import heapq
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from filemill.domain.records import Record

# A bitmap of this many records fits into the 4 KiB of a commit's metadata, whichever of them are finished.
SPAN_RECORDS = 20_000
# A paused partition is resumed when its queue has fallen to this fraction: each pause costs a fetch.
RESUME_FRACTION = 0.5


class QueueLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the records that wait. Enough to work on while a paused partition is fetched again.

    `records` and `max_bytes` are for all queues together and divided equally; `min_records` is for each.
    """

    records: int = 2000
    max_bytes: int = 32 * 1024 * 1024
    min_records: int = 20


class PartitionUsage(msgspec.Struct, frozen=True):
    """The records in progress of a partition, and the number of records from the oldest of them to the newest."""

    unfinished: int
    span: int


class _Queue:
    """The waiting records of one partition."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._records: deque[Record] = deque()
        self._bytes = 0
        self.last_dispatch = 0  # breaks ties: the partition that has waited longest goes first

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: Record) -> None:
        self._records.append(record)
        self._bytes += len(record.value or b"")

    def pop(self, dispatch: int) -> Record:
        self.last_dispatch = dispatch
        record = self._records.popleft()
        self._bytes -= len(record.value or b"")
        return record

    def fill_level(self, queues: int) -> float:
        """The used fraction of this queue's share: full from 1 on."""
        return max(
            len(self._records) / max(self._limits.min_records, self._limits.records // queues),
            self._bytes / (self._limits.max_bytes // queues),
        )


class Dispatcher:
    """Queues fetched records and decides which start. One thread."""

    def __init__(
        self,
        limit: int,
        partition_limit: int,
        queue_limits: QueueLimits | None = None,
        claim_places: Callable[[int, int], int] | None = None,
    ) -> None:
        """`limit` and `partition_limit`: the records in progress, in all and of one partition.

        `claim_places` replaces `limit` if other consumers share the places: of the records in progress and those that
        could start, it returns how many may.
        """
        self._claim_places = claim_places or (lambda used, _waiting: limit - used)
        self._partition_limit = partition_limit
        self._queue_limits = queue_limits or QueueLimits()
        self._queues: dict[int, _Queue] = {}
        self._dispatched = 0
        self._paused: set[int] = set()
        self._blocked = False

    @property
    def queued(self) -> int:
        """The number of records that wait."""
        return sum(map(len, self._queues.values()))

    def has_queued(self, partition: int) -> bool:
        """Whether a record of this partition waits."""
        return bool(self._queues.get(partition))

    @property
    def paused(self) -> bool:
        """Whether backpressure or the limits keep records from starting."""
        return self._blocked

    def on_assigned(self, partitions: Collection[int]) -> None:
        """Add partitions. The client reads newly assigned partitions without a resume."""
        for partition in partitions:
            self._queues[partition] = _Queue(self._queue_limits)
        self._paused.difference_update(partitions)

    def on_revoked(self, partitions: Collection[int]) -> None:
        """Remove partitions with their waiting records."""
        for partition in partitions:
            self._queues.pop(partition, None)
        self._paused.difference_update(partitions)

    def enqueue(self, records: Sequence[Record]) -> None:
        """Queue records. Those of other partitions are dropped: the same read revoked their partition."""
        for record in records:
            if record.partition in self._queues:
                self._queues[record.partition].put(record)

    def dispatch(self, usage: Mapping[int, PartitionUsage], *, backpressure: bool) -> list[Record]:
        """The records that start now, in the order of each partition; none under backpressure."""
        started: list[Record] = []
        candidates = [
            (used.unfinished, self._queues[partition].last_dispatch, used.span, partition)
            for partition, used in usage.items()
            if not backpressure and self._queues[partition] and self._has_capacity(used.unfinished, used.span)
        ]
        waiting = sum(
            min(len(self._queues[partition]), self._partition_limit - unfinished, SPAN_RECORDS - span)
            for unfinished, _, span, partition in candidates
        )
        left = self._claim_places(sum(used.unfinished for used in usage.values()), waiting)
        heapq.heapify(candidates)
        while candidates and left > 0:
            unfinished, _, span, partition = candidates[0]
            self._dispatched += 1
            started.append(self._queues[partition].pop(self._dispatched))
            left -= 1
            if self._queues[partition] and self._has_capacity(unfinished + 1, span + 1):
                heapq.heapreplace(candidates, (unfinished + 1, self._dispatched, span + 1, partition))
            else:
                heapq.heappop(candidates)
        self._blocked = backpressure or self.queued > 0
        return started

    def flow_control(self, *, backpressure: bool) -> tuple[list[int], list[int]]:
        """The partitions to pause and the partitions to resume now. Under backpressure all are paused."""
        wanted = set()
        for partition, waiting in self._queues.items():
            level = waiting.fill_level(len(self._queues))
            if backpressure or level >= 1 or (partition in self._paused and level > RESUME_FRACTION):
                wanted.add(partition)
        pause, resume = sorted(wanted - self._paused), sorted(self._paused - wanted)
        self._paused = wanted
        return pause, resume

    def _has_capacity(self, unfinished: int, span: int) -> bool:
        return unfinished < self._partition_limit and span < SPAN_RECORDS
