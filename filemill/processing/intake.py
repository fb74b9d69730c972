"""Which partitions are read now. Pure.

Three bounds, each with hysteresis, for a pause drops what the client has prefetched: records in progress in the whole
worker, records in progress of one partition, and how far one partition may run ahead of its oldest unfinished record.
The last one keeps what is finished beyond the committed offset small enough for the commit's metadata.

And one rule of fairness. A worker with a backlog is full nearly always. Each time that it reads again, the partition
whose records come first would fill it, and the pause would drop what was fetched of the others: one of them could wait
until the backlog of its neighbours is gone. So half of each partition's even share is kept for it, and one that holds
less is not paused for its neighbours' sake. The price: where only one of many has work, it gets little more than half
the worker.
"""

from collections.abc import Collection, Mapping

import msgspec

# Paused at the limit, resumed at this share of it.
RESUME_SHARE = 0.75
# Whatever of them is finished, a bitmap of so many records fits into the 4 KiB of a commit's metadata.
SPAN_RECORDS = 20_000


class Load(msgspec.Struct, frozen=True):
    """What a worker holds of one partition: records in progress, and records from the oldest of them to the newest."""

    unfinished: int
    span: int


class Intake:
    """Decides on pauses and remembers them. One thread."""

    def __init__(self, limit: int, partition_limit: int) -> None:
        """`limit` and `partition_limit`: records in progress, in all and of one partition."""
        self._limit = limit
        self._partition_limit = partition_limit
        self._full = False
        self._closed = False
        self._crowded: set[int] = set()
        self._sated: set[int] = set()
        self._paused: set[int] = set()

    @property
    def paused(self) -> bool:
        """Whether nothing at all is read."""
        return self._closed

    def room(self, loads: Mapping[int, Load]) -> int:
        """How many records may be asked for, at least one: asking is what keeps a worker in its group."""
        owed = self._owed(loads)
        left = self._left(loads)
        spare = max(0, left - sum(owed.values()))
        rooms = [
            min(owed.get(partition, 0) + spare, self._partition_limit - load.unfinished, SPAN_RECORDS - load.span)
            for partition, load in loads.items()
            if partition not in self._paused
        ]
        # Whose records come is the client's choice: so many that it may be any partition's.
        return max(1, min(left, *rooms)) if rooms else max(1, spare)

    def came(self, partitions: Collection[int]) -> None:
        """Partitions were assigned; the client reads them."""
        self._paused.difference_update(partitions)
        self._crowded.difference_update(partitions)
        self._sated.difference_update(partitions)

    def went(self, partitions: Collection[int]) -> None:
        """Partitions are gone."""
        self.came(partitions)

    def decide(self, loads: Mapping[int, Load], *, held: bool) -> tuple[list[int], list[int]]:
        """What to pause and what to resume now. `held`: nothing is to be read, for a reason of the worker's own."""
        kept = self._kept(loads)
        for partition, load in loads.items():
            if load.unfinished >= kept:
                self._sated.add(partition)
            elif load.unfinished <= kept * RESUME_SHARE:
                self._sated.discard(partition)
        owed = self._owed(loads)
        left = self._left(loads)
        spare = left - sum(owed.values())
        self._full = spare <= 0 or (self._full and spare < self._limit * (1 - RESUME_SHARE))
        for partition, load in loads.items():
            if load.unfinished >= self._partition_limit or load.span >= SPAN_RECORDS:
                self._crowded.add(partition)
            elif load.unfinished <= self._partition_limit * RESUME_SHARE and load.span <= SPAN_RECORDS * RESUME_SHARE:
                self._crowded.discard(partition)
        if held or left <= 0:
            wanted = set(loads)
        else:
            wanted = self._crowded & set(loads)
            if self._full:
                wanted |= loads.keys() - owed.keys()
        self._closed = held or (bool(loads) and wanted == set(loads))
        pause, resume = sorted(wanted - self._paused), sorted(self._paused - wanted)
        self._paused = wanted
        return pause, resume

    def _kept(self, loads: Mapping[int, Load]) -> int:
        """The places that are kept for each partition."""
        kept = self._limit // (2 * len(loads)) if loads else 0
        return 1 if not kept and self._limit > len(loads) else kept

    def _owed(self, loads: Mapping[int, Load]) -> dict[int, int]:
        """The partitions that do not hold what is kept for them, and how much less."""
        kept = self._kept(loads)
        return {
            partition: kept - load.unfinished
            for partition, load in loads.items()
            if load.unfinished < kept and partition not in self._sated
        }

    def _left(self, loads: Mapping[int, Load]) -> int:
        return self._limit - sum(load.unfinished for load in loads.values())
