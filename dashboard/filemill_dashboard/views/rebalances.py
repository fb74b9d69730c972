"""Who owned which partition when, put together from what workers said. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from filemill.domain.worker_events import DEAD_AFTER_SECONDS, EventKind
from filemill.queries.history import Ownership, Told


@dataclass(frozen=True)
class OwnershipPeriod:
    """A partition in one worker's hands. `ended` is how it ended: revoked, lost, stopped, silent; None: it goes on."""

    partition: int
    worker: str
    start: datetime
    end: datetime
    epoch: int | None
    ended: str | None


@dataclass(frozen=True)
class OwnershipChange:
    """A partition that came to a worker: from whom, and how long nobody had it (None where that is not known)."""

    at: datetime
    partition: int
    worker: str
    previous_owner: str | None
    previous_end: str | None
    pause_seconds: float | None
    epoch: int | None
    cause: str | None


def ownership_periods(known: Ownership) -> list[OwnershipPeriod]:
    """All bands of the period, by partition and time."""
    hands = _Hands(known)
    for told in known.told:
        hands.follow(told)
    hands.end()
    return sorted(hands.finished, key=lambda band: (band.partition, band.start))


class _Hands:
    """Who holds what, as one event after the other tells it."""

    def __init__(self, known: Ownership) -> None:
        self.finished: list[OwnershipPeriod] = []
        self._known = known
        self._held: dict[tuple[str, int], tuple[datetime, int | None]] = {}

    def follow(self, told: Told) -> None:
        """Take in an event."""
        event = told.event
        worker, at = event.worker_id, max(event.timestamp, self._known.since)
        match event.kind:
            case EventKind.STARTED:  # a new process: what the former one had, it lost when it was last heard of
                self._close(worker, self._of(worker), told.heard_before or at, "silent")
            case EventKind.STOPPED:
                self._close(worker, self._of(worker), at, "stopped")
            case EventKind.REVOKED | EventKind.LOST:
                self._close(worker, self._of(worker) & set(event.partitions), at, event.kind.value)
            case _:
                new = event.partitions if event.kind is EventKind.ASSIGNED else []
                for partition in {*event.owned, *new}:
                    self._held.setdefault((worker, partition), (at, event.epoch))

    def end(self) -> None:
        """The end of the period: the silent had theirs until they were last heard of, the others have them still."""
        until = self._known.until
        for worker in {holder for holder, _ in self._held}:
            heard = self._known.heard.get(worker, until)
            dead = until - heard > timedelta(seconds=DEAD_AFTER_SECONDS)
            self._close(worker, self._of(worker), heard if dead else until, "silent" if dead else None)

    def _of(self, worker: str) -> set[int]:
        return {partition for holder, partition in self._held if holder == worker}

    def _close(self, worker: str, partitions: Iterable[int], at: datetime, how: str | None) -> None:
        for partition in partitions:
            start, epoch = self._held.pop((worker, partition))
            self.finished.append(OwnershipPeriod(partition, worker, start, max(start, at), epoch, how))


def ownership_changes(known: Ownership, found: list[OwnershipPeriod]) -> list[OwnershipChange]:
    """Each time that a partition came to a worker within the period, newest first."""
    causes = {
        (told.event.worker_id, partition, told.event.timestamp): told.event.cause
        for told in known.told
        if told.event.kind is EventKind.ASSIGNED
        for partition in told.event.partitions
    }
    result = []
    for place, band in enumerate(found):
        former = found[place - 1] if place and found[place - 1].partition == band.partition else None
        if former is None and band.start <= known.since:
            continue
        pause = None if former is None else max(0.0, (band.start - former.end).total_seconds())
        result.append(
            OwnershipChange(
                band.start,
                band.partition,
                band.worker,
                former.worker if former else None,
                former.ended if former else None,
                pause,
                band.epoch,
                causes.get((band.worker, band.partition, band.start)),
            )
        )
    return sorted(result, key=lambda move: (move.at, move.partition), reverse=True)
