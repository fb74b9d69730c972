"""What was read and has not begun: which record begins next, and which partitions are read. Pure.

The client hands records over in the order in which it fetched them, and a pause drops what it has fetched ahead. A
worker that began whatever came, and paused all it owns when it was full, would serve one partition at a time and wait
for a fetch after each pause. So what is read waits here, in a short queue for each partition. Whichever partition has
the fewest records in progress begins one next, and a partition is paused only while its own queue is full.

Three bounds hold back what begins: records in progress in the whole worker, records in progress of one partition, and
how far one partition may run ahead of its oldest unfinished record. The last one keeps what is finished beyond the
committed offset small enough for the commit's metadata.
"""

import heapq
from collections import deque
from collections.abc import Collection, Mapping, Sequence

import msgspec

from filemill.domain.records import Record

# Whatever of them is finished, a bitmap of so many records fits into the 4 KiB of a commit's metadata.
SPAN_RECORDS = 20_000
# In all queues together, and at least in each: enough to work on while a partition that was paused is fetched again.
QUEUED_RECORDS = 2000
QUEUED_BYTES = 32 * 1024 * 1024
MIN_QUEUED_RECORDS = 20
# Paused when its queue is full, resumed at this share of it: each pause costs a fetch.
RESUME_FRACTION = 0.5


class PartitionUsage(msgspec.Struct, frozen=True):
    """What a worker holds of one partition: records in progress, and records from the oldest of them to the newest."""

    unfinished: int
    span: int


class _Queue:
    """What waits of one partition."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque()
        self._bytes = 0
        self.last_dispatch = 0  # the turn of its last one: among equals, who waited longest goes first

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: Record) -> None:
        self._records.append(record)
        self._bytes += len(record.value or b"")

    def pop(self, turn: int) -> Record:
        self.last_dispatch = turn
        record = self._records.popleft()
        self._bytes -= len(record.value or b"")
        return record

    def fill_level(self, queues: int) -> float:
        """How much of its share of what may wait it has: full from 1 on."""
        return max(
            len(self._records) / max(MIN_QUEUED_RECORDS, QUEUED_RECORDS // queues),
            self._bytes / (QUEUED_BYTES // queues),
        )


class Dispatcher:
    """Holds what waits, and decides. One thread."""

    def __init__(self, limit: int, partition_limit: int) -> None:
        """`limit` and `partition_limit`: records in progress, in all and of one partition."""
        self._limit = limit
        self._partition_limit = partition_limit
        self._queues: dict[int, _Queue] = {}
        self._turn = 0
        self._paused: set[int] = set()
        self._full = False

    @property
    def queued(self) -> int:
        """How many records were read and have not begun."""
        return sum(map(len, self._queues.values()))

    def has_queued(self, partition: int) -> bool:
        """Whether any record of this partition waits."""
        return bool(self._queues.get(partition))

    @property
    def paused(self) -> bool:
        """Whether nothing begins now: something waits, and the bounds, or a hold, let none of it begin."""
        return self._full

    def on_assigned(self, partitions: Collection[int]) -> None:
        """Partitions were assigned; the client reads them."""
        for partition in partitions:
            self._queues[partition] = _Queue()
        self._paused.difference_update(partitions)

    def on_revoked(self, partitions: Collection[int]) -> None:
        """Partitions are gone, and what waited of them is another worker's."""
        for partition in partitions:
            self._queues.pop(partition, None)
        self._paused.difference_update(partitions)

    def enqueue(self, records: Sequence[Record]) -> None:
        """Queue what was read. What is of no partition of ours was fetched before a revocation that came with it."""
        for record in records:
            if record.partition in self._queues:
                self._queues[record.partition].put(record)

    def dispatch(self, usage: Mapping[int, PartitionUsage], *, held: bool) -> list[Record]:
        """What begins now, in each partition's order. `held`: nothing, for a reason of the worker's own."""
        begun: list[Record] = []
        left = 0 if held else self._limit - sum(load.unfinished for load in usage.values())
        turns = [
            (load.unfinished, self._queues[partition].last_dispatch, load.span, partition)
            for partition, load in usage.items()
            if self._queues[partition] and self._has_capacity(load.unfinished, load.span)
        ]
        heapq.heapify(turns)
        while turns and left > 0:
            unfinished, _, span, partition = turns[0]
            self._turn += 1
            begun.append(self._queues[partition].pop(self._turn))
            left -= 1
            if self._queues[partition] and self._has_capacity(unfinished + 1, span + 1):
                heapq.heapreplace(turns, (unfinished + 1, self._turn, span + 1, partition))
            else:
                heapq.heappop(turns)
        self._full = held or self.queued > 0
        return begun

    def flow_control(self, *, held: bool) -> tuple[list[int], list[int]]:
        """Which partitions to pause and to resume now. `held`: all are to be paused."""
        wanted = set()
        for partition, queue in self._queues.items():
            filled = queue.fill_level(len(self._queues))
            if held or filled >= 1 or (partition in self._paused and filled > RESUME_FRACTION):
                wanted.add(partition)
        pause, resume = sorted(wanted - self._paused), sorted(self._paused - wanted)
        self._paused = wanted
        return pause, resume

    def _has_capacity(self, unfinished: int, span: int) -> bool:
        return unfinished < self._partition_limit and span < SPAN_RECORDS
