"""Which partitions are read now. Pure.

Three bounds, each with hysteresis, for a pause drops what the client has prefetched: records in progress in the whole
worker, records in progress of one partition, and how far one partition may run ahead of its oldest unfinished record.
The last one keeps what is finished beyond the committed offset small enough for the commit's metadata.

And one rule of fairness. A worker with a backlog is full nearly always. Were all its partitions resumed at once, the
one whose records come first would fill it again, and the pause would drop what was fetched of the others: one of them
could wait until the backlog of its neighbours is gone. So those that hold little are read first, for a moment.
"""

from collections.abc import Iterable, Mapping

import msgspec

# Paused at the limit, resumed at this share of it.
RESUME_SHARE = 0.75
# Whatever of them is finished, a bitmap of so many records fits into the 4 KiB of a commit's metadata.
SPAN_RECORDS = 20_000
# How long those that hold less than half of their share are read alone: time enough for a fetch.
FIRST_SECONDS = 0.3


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
        self._opened_at = float("-inf")
        self._crowded: set[int] = set()
        self._paused: set[int] = set()

    @property
    def paused(self) -> bool:
        """Whether nothing at all is read."""
        return self._full

    def room(self, loads: Mapping[int, Load]) -> int:
        """How many records may be asked for, at least one: asking is what keeps a worker in its group."""
        total = sum(load.unfinished for load in loads.values())
        rooms = [
            min(self._partition_limit - load.unfinished, SPAN_RECORDS - load.span)
            for partition, load in loads.items()
            if partition not in self._paused
        ]
        return max(1, min(self._limit - total, *rooms)) if rooms else max(1, self._limit - total)

    def came(self, partitions: Iterable[int]) -> None:
        """Partitions were assigned; the client reads them."""
        self._paused.difference_update(partitions)
        self._crowded.difference_update(partitions)

    def went(self, partitions: Iterable[int]) -> None:
        """Partitions are gone."""
        self.came(partitions)

    def decide(self, loads: Mapping[int, Load], now: float, *, held: bool) -> tuple[list[int], list[int]]:
        """What to pause and what to resume now (seconds of any clock that does not go back).

        `held`: nothing is to be read, for a reason of the worker's own.
        """
        total = sum(load.unfinished for load in loads.values())
        if held or total >= self._limit:
            self._full = True
        elif self._full and total <= self._limit * RESUME_SHARE:
            self._full = False
            self._opened_at = now
        for partition, load in loads.items():
            if load.unfinished >= self._partition_limit or load.span >= SPAN_RECORDS:
                self._crowded.add(partition)
            elif load.unfinished <= self._partition_limit * RESUME_SHARE and load.span <= SPAN_RECORDS * RESUME_SHARE:
                self._crowded.discard(partition)
        wanted = set(loads) if self._full else (self._crowded | self._later(loads, now)) & set(loads)
        pause, resume = sorted(wanted - self._paused), sorted(self._paused - wanted)
        self._paused = wanted
        return pause, resume

    def _later(self, loads: Mapping[int, Load], now: float) -> set[int]:
        """The paused ones that wait a moment for those that hold less."""
        if now - self._opened_at > FIRST_SECONDS:
            return set()
        little = self._limit * RESUME_SHARE / len(loads) / 2 if loads else 0
        rich = {partition for partition, load in loads.items() if load.unfinished > little} & self._paused
        return rich if len(rich) < len(loads) else set()
