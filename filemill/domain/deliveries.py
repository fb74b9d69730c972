"""The deliveries of a file's records to workers, and how each one ended. Pure.

A worker reports when it begins a record and when it finishes one. Nobody reports that a worker was killed: that follows
from its next start, or from its silence. The end of an unfinished delivery is the first sign after its begin.
"""

import enum
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from filemill.domain.files import Status
from filemill.domain.worker_events import DEAD_AFTER_SECONDS, EventKind, WorkerEvent

# Starts of one delivery that are reported in two ways differ by less.
SAME_START = timedelta(seconds=1)


class DeliveryOutcome(enum.StrEnum):
    """How a delivery ended.

    KILLED: the worker's process ended without a stop. SILENT: no event since the end that is given. REDELIVERED:
    another worker began the record, and it is not known why.
    """

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    KILLED = "killed"
    REVOKED = "revoked"
    LOST = "lost"
    STOPPED = "stopped"
    SILENT = "silent"
    REDELIVERED = "redelivered"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery. `ended_at` is None while it runs, or if the end is not known.

    `repeated`: its result arrived after the run had ended, and changed nothing. `ended_by`: who ended it, if a person
    or a program did.
    """

    run: int
    worker_id: str
    partition: int | None
    offset: int | None
    started_at: datetime
    ended_at: datetime | None = None
    outcome: DeliveryOutcome | None = None
    repeated: bool = False
    ended_by: str | None = None


class WorkerSign(msgspec.Struct, frozen=True):
    """An event of a worker that can end its deliveries. `before`: the time of the worker's previous event."""

    worker_id: str
    kind: EventKind
    at: datetime
    partitions: list[int] = []
    before: datetime | None = None


class WorkerKill(msgspec.Struct, frozen=True):
    """A recorded operation that killed a worker's process."""

    worker_id: str
    at: datetime
    actor: str


class RowDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """What a file's row says about the delivery that its status is of."""

    run: int
    status: Status
    worker_id: str | None
    partition: int | None
    offset: int | None
    started_at: datetime | None
    finished_at: datetime | None


class DeliveryEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known besides the row and the stored deliveries.

    `events` are the file's, `signs` those of its workers, each in the order of time. `heard_at`: the last event of each
    worker. `cancelled_by`: who cancelled a run.
    """

    events: Sequence[WorkerEvent] = ()
    signs: Sequence[WorkerSign] = ()
    heard_at: Mapping[str, datetime] = {}
    kills: Sequence[WorkerKill] = ()
    cancelled_by: Mapping[int, str] = {}


def resolve_deliveries(
    stored: Sequence[Delivery], row: RowDelivery, evidence: DeliveryEvidence, as_of: datetime
) -> list[Delivery]:
    """All deliveries of a file in the order of their begin, each with its outcome."""
    found = _with_row(_merged(stored), row)
    return [_resolved(one, found[place + 1 :], row, evidence, as_of) for place, one in enumerate(found)]


def _merged(stored: Sequence[Delivery]) -> list[Delivery]:
    """The deliveries in the order of their begin; one that was stored twice appears once."""
    found: list[Delivery] = []
    for one in sorted(stored, key=lambda delivery: (delivery.run, delivery.started_at)):
        place = _place(found, one)
        if place is None:
            found.append(one)
        else:
            found[place] = msgspec.structs.replace(
                found[place],
                ended_at=found[place].ended_at or one.ended_at,
                outcome=found[place].outcome or one.outcome,
                repeated=found[place].repeated or one.repeated,
            )
    return found


def _place(found: Sequence[Delivery], wanted: Delivery) -> int | None:
    """The place of the same delivery; None if it is not among `found`."""
    for place, one in enumerate(found):
        same = (one.run, one.worker_id, one.offset) == (wanted.run, wanted.worker_id, wanted.offset)
        if same and abs(one.started_at - wanted.started_at) <= SAME_START:
            return place
    return None


def _with_row(found: list[Delivery], row: RowDelivery) -> list[Delivery]:
    if row.worker_id is None or row.started_at is None:
        return found
    given = Delivery(
        run=row.run,
        worker_id=row.worker_id,
        partition=row.partition,
        offset=row.offset,
        started_at=row.started_at,
    )
    if row.status in (Status.COMPLETED, Status.FAILED):
        given = msgspec.structs.replace(given, ended_at=row.finished_at, outcome=DeliveryOutcome(row.status.value))
    place = _place(found, given)
    others = found if place is None else [*found[:place], *found[place + 1 :]]
    return sorted([*others, given], key=lambda delivery: (delivery.run, delivery.started_at))


def _resolved(
    delivery: Delivery, later: Sequence[Delivery], row: RowDelivery, evidence: DeliveryEvidence, as_of: datetime
) -> Delivery:
    if delivery.outcome is not None:
        return delivery
    ends = [*_reported(delivery, evidence.events), *_signs(delivery, evidence)]
    if delivery.run == row.run and row.status is Status.CANCELLED and row.finished_at is not None:
        ends.append((row.finished_at, DeliveryOutcome.CANCELLED))
    if ends:
        ended_at, outcome = min(ends)
        by = evidence.cancelled_by.get(delivery.run) if outcome is DeliveryOutcome.CANCELLED else None
        if outcome is DeliveryOutcome.KILLED:
            by = next((kill.actor for kill in evidence.kills if kill.at == ended_at), None)
        return msgspec.structs.replace(delivery, ended_at=ended_at, outcome=outcome, ended_by=by)
    heard_at = evidence.heard_at.get(delivery.worker_id)
    silent_before = as_of - timedelta(seconds=DEAD_AFTER_SECONDS)
    if heard_at is not None and heard_at < silent_before:
        last_sign = max(heard_at, delivery.started_at)
        return msgspec.structs.replace(delivery, ended_at=last_sign, outcome=DeliveryOutcome.SILENT)
    if later or delivery.run < row.run:
        return msgspec.structs.replace(delivery, outcome=DeliveryOutcome.REDELIVERED)
    return msgspec.structs.replace(delivery, outcome=DeliveryOutcome.RUNNING)


def _reported(delivery: Delivery, events: Sequence[WorkerEvent]) -> list[tuple[datetime, DeliveryOutcome]]:
    """The ends that the worker itself reported."""
    kinds = {
        EventKind.CANCELLED: DeliveryOutcome.CANCELLED,
        EventKind.DEAD_LETTERED: DeliveryOutcome.FAILED,
    }
    return [
        (event.timestamp, kinds[event.kind])
        for event in events
        if event.kind in kinds
        and (event.worker_id, event.run or 1) == (delivery.worker_id, delivery.run)
        and event.offset in (None, delivery.offset)
        and event.timestamp >= delivery.started_at
    ]


def _signs(delivery: Delivery, evidence: DeliveryEvidence) -> list[tuple[datetime, DeliveryOutcome]]:
    """The ends that follow from what happened to the worker."""
    kinds = {
        EventKind.REVOKED: DeliveryOutcome.REVOKED,
        EventKind.LOST: DeliveryOutcome.LOST,
        EventKind.STOPPED: DeliveryOutcome.STOPPED,
    }
    found = [
        (kill.at, DeliveryOutcome.KILLED)
        for kill in evidence.kills
        if kill.worker_id == delivery.worker_id and kill.at > delivery.started_at
    ]
    for sign in evidence.signs:
        if sign.worker_id != delivery.worker_id or sign.at <= delivery.started_at:
            continue
        if sign.kind is EventKind.STARTED:
            # Its process ended between its last event and this start. A recorded kill in between is more exact.
            before = max(sign.before or delivery.started_at, delivery.started_at)
            if not any(outcome is DeliveryOutcome.KILLED and before <= at <= sign.at for at, outcome in found):
                found.append((before, DeliveryOutcome.KILLED))
        elif sign.kind is EventKind.STOPPED or delivery.partition in (None, *sign.partitions):
            found.append((sign.at, kinds[sign.kind]))
    return found
