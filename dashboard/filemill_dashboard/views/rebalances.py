"""Who owned which partition when: by the workers' events, and of foreign members by the monitor's samples. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import zip_longest

from filemill.domain.worker_events import DEAD_AFTER_SECONDS, EventKind
from filemill.queries.history import SAMPLE_GAP, AssignmentSample, OwnershipEvent, OwnershipHistory


class EndReason(StrEnum):
    """Why a worker no longer owned a partition."""

    REVOKED = "revoked"
    LOST = "lost"
    STOPPED = "stopped"
    SILENT = "silent"
    # Of a foreign member: it was not the owner in the next sample, or there is no next sample.
    RELEASED = "released"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class PartitionOwnership:
    """A worker owned a partition from `start` to `end`. `end_reason` None: it still does.

    `sampled`: the owner sends no events; both times are those of samples, so each is late by at most their interval.
    """

    partition: int
    worker: str
    start: datetime
    end: datetime
    epoch: int | None
    end_reason: EndReason | None
    sampled: bool = False


@dataclass(frozen=True)
class OwnershipChange:
    """A worker became the owner of a partition.

    `pause_seconds` is the time without an owner; None where there was no previous owner, or where a sample is not
    exact enough to tell.
    """

    at: datetime
    partition: int
    worker: str
    previous_owner: str | None
    previous_end_reason: EndReason | None
    pause_seconds: float | None
    epoch: int | None
    cause: str | None


def ownership_periods(
    known: OwnershipHistory, *, events_known: bool = True, silence_known: bool = True
) -> list[PartitionOwnership]:
    """All periods of ownership, by partition and time.

    `events_known`: events arrive now; otherwise a period ends when its worker was last heard of, and the present is
    unknown. `silence_known`: a worker that is not heard of is silent; otherwise nobody knows.
    """
    tracker = _EventTracker(known)
    for event in known.events:
        tracker.apply(event)
    tracker.finish(events_known=events_known, silence_known=silence_known)
    foreign = _foreign_periods(known)
    found = sorted([*tracker.finished, *foreign], key=lambda period: (period.partition, period.start))
    return [_cut(period, following) for period, following in zip_longest(found, found[1:])]


class _EventTracker:
    """The owners of each partition, followed event by event."""

    def __init__(self, known: OwnershipHistory) -> None:
        self.finished: list[PartitionOwnership] = []
        self._known = known
        self._open: dict[tuple[str, int], tuple[datetime, int | None]] = {}

    def apply(self, event: OwnershipEvent) -> None:
        """Apply the next event."""
        body = event.event
        worker, at = body.worker_id, max(body.timestamp, self._known.since)
        match body.kind:
            case EventKind.STARTED:  # a new process: the former one owned its partitions until its last event
                self._close(worker, self._owned_by(worker), event.previous_event_at or at, EndReason.SILENT)
            case EventKind.STOPPED:
                self._close(worker, self._owned_by(worker), at, EndReason.STOPPED)
            case EventKind.REVOKED:
                self._close(worker, self._owned_by(worker) & set(body.partitions), at, EndReason.REVOKED)
            case EventKind.LOST:
                self._close(worker, self._owned_by(worker) & set(body.partitions), at, EndReason.LOST)
            case _:
                new = body.partitions if body.kind is EventKind.ASSIGNED else []
                for partition in {*body.owned, *new}:
                    self._open.setdefault((worker, partition), (at, body.epoch))

    def finish(self, *, events_known: bool, silence_known: bool) -> None:
        """Close what is open: a dead worker owned its partitions until it was last heard of, others still do."""
        until = self._known.until
        for worker in {owner for owner, _ in self._open}:
            heard = self._known.last_heard.get(worker, until)
            if not events_known or until - heard > timedelta(seconds=DEAD_AFTER_SECONDS):
                reason = EndReason.SILENT if events_known and silence_known else EndReason.UNKNOWN
                self._close(worker, self._owned_by(worker), min(heard, until), reason)
            else:
                self._close(worker, self._owned_by(worker), until, None)

    def _owned_by(self, worker: str) -> set[int]:
        return {partition for owner, partition in self._open if owner == worker}

    def _close(self, worker: str, partitions: Iterable[int], at: datetime, reason: EndReason | None) -> None:
        for partition in partitions:
            start, epoch = self._open.pop((worker, partition))
            self.finished.append(PartitionOwnership(partition, worker, start, max(start, at), epoch, reason))


def _foreign_periods(known: OwnershipHistory) -> Iterator[PartitionOwnership]:
    """The partitions of members that sent no event within the period."""
    heard = {event.event.worker_id for event in known.events}
    heard |= {worker for worker, at in known.last_heard.items() if at >= known.since}
    # (member, partition): the name of the owner, the first and the latest sample in which it is the owner.
    owned: dict[tuple[str, int], tuple[str, datetime, AssignmentSample]] = {}
    for sample in known.samples:
        now = {
            (member.member_id, partition): member.client_id or member.member_id
            for member in sample.members
            if member.client_id not in heard
            for partition in member.partitions
        }
        for key in [key for key, (_, _, latest) in owned.items() if key not in now or latest.next_at is None]:
            yield _foreign_period(key[1], *owned.pop(key), known.until)
        for key, name in now.items():
            start = owned[key][1] if key in owned else _start(sample, known)
            owned[key] = (name, start, sample)
    for (_, partition), state in owned.items():
        yield _foreign_period(partition, *state, known.until)


def _start(sample: AssignmentSample, known: OwnershipHistory) -> datetime:
    """An owner in the first sample was the owner when the period began."""
    is_first = sample is known.samples[0] and sample.first_at - known.since <= SAMPLE_GAP
    return known.since if is_first else sample.first_at


def _foreign_period(
    partition: int, name: str, start: datetime, latest: AssignmentSample, until: datetime
) -> PartitionOwnership:
    if latest.next_at is not None:
        end, reason = latest.next_at, EndReason.RELEASED
    elif until - latest.last_at <= SAMPLE_GAP:
        return PartitionOwnership(partition, name, start, until, None, None, sampled=True)
    else:
        end, reason = latest.last_at, EndReason.UNKNOWN
    return PartitionOwnership(partition, name, start, end, None, reason, sampled=True)


def _cut(period: PartitionOwnership, following: PartitionOwnership | None) -> PartitionOwnership:
    """A sample shows the end of a foreign member's ownership late: it ended before the next owner's began."""
    if not period.sampled or following is None or following.partition != period.partition:
        return period
    if period.end <= following.start:
        return period
    return PartitionOwnership(
        period.partition,
        period.worker,
        period.start,
        following.start,
        None,
        period.end_reason or EndReason.RELEASED,
        sampled=True,
    )


def ownership_changes(known: OwnershipHistory, periods: Sequence[PartitionOwnership]) -> list[OwnershipChange]:
    """Each time that a worker became the owner of a partition within the period, newest first."""
    causes = {
        (event.event.worker_id, partition, event.event.timestamp): event.event.cause
        for event in known.events
        if event.event.kind is EventKind.ASSIGNED
        for partition in event.event.partitions
    }
    changes = []
    for period, before in zip(periods, [None, *periods], strict=False):
        previous = before if before is not None and before.partition == period.partition else None
        if previous is None and period.start <= known.since:
            continue
        exact = previous is not None and not previous.sampled and not period.sampled
        pause = max(0.0, (period.start - previous.end).total_seconds()) if previous is not None and exact else None
        changes.append(
            OwnershipChange(
                period.start,
                period.partition,
                period.worker,
                previous.worker if previous else None,
                previous.end_reason if previous else None,
                pause,
                period.epoch,
                causes.get((period.worker, period.partition, period.start)),
            )
        )
    return sorted(changes, key=lambda change: (change.at, change.partition), reverse=True)
