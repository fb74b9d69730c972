"""The timeline and the state diagram of one file, from its row, its events and the audit record. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.deliveries import Delivery, DeliveryOutcome
from filemill.domain.files import Status
from filemill.domain.worker_events import EventKind, WorkerEvent
from filemill.queries.file_timeline import FileTimeline, PublishedRequest
from filemill_dashboard.views.durations import format_duration
from filemill_dashboard.views.plurals import counted

TONES = {Status.COMPLETED: "good", Status.FAILED: "bad", Status.CANCELLED: "none"}


@dataclass(frozen=True)
class TimelineEntry:
    """One event of the timeline. `tone` is the colour of its dot, `trace` is collapsed at first.

    `order` is its place in the timeline if that is not `at`: the clocks of several processes may contradict the order.
    """

    at: datetime
    what: str
    detail: str = ""
    tone: str = "none"
    trace: str = ""
    order: datetime | None = None


@dataclass(frozen=True)
class StateNode:
    """A state: reached at `at`, `after_seconds` after the one before. Both are None if it was not reached."""

    name: str
    note: str = ""
    at: datetime | None = None
    after_seconds: float | None = None
    current: bool = False
    tone: str = "none"


@dataclass(frozen=True)
class StateDiagram:
    """The current run's path through the states, the possible final states, and the number of the run."""

    path: list[StateNode]
    ends: list[StateNode]
    run: int


def timeline_entries(history: FileTimeline) -> list[TimelineEntry]:
    """All events of the file, oldest first."""
    file = history.file
    if file is None:
        return []
    entries = [TimelineEntry(file.created_at, "Accepted", "row and outbox row committed in one transaction", "busy")]
    entries += [_publication(published, history.deliveries) for published in history.publications]
    entries += [entry for delivery in history.deliveries for entry in _delivery(delivery)]
    entries += [_event(event) for event in history.events]
    entries += [
        TimelineEntry(one.at, _OPERATIONS.get(one.action, one.action), f"run {one.run} · by {one.actor}", "warn")
        for one in history.operations
    ]
    cancel_recorded = any(one.action == "cancel" and one.run == file.run for one in history.operations)
    entries += _row_entries(file, cancel_recorded=cancel_recorded)
    return sorted(entries, key=lambda entry: entry.order or entry.at)


_OPERATIONS = {
    "retry": "Retried as a new run",
    "resubmit": "Resubmitted as a new run, because its record was lost",
    "cancel": "Cancelled",
    "dlq.replay": "Replayed from the dead letters as a new run",
}


def published_at(published: PublishedRequest, deliveries: Sequence[Delivery]) -> datetime:
    """When the record was on Kafka at the latest: its acknowledgement may be stored after a worker has started it."""
    starts = [one.started_at for one in deliveries if one.run == published.run]
    return min([published.published_at, *starts])


def _publication(published: PublishedRequest, deliveries: Sequence[Delivery]) -> TimelineEntry:
    where = f"partition {published.partition}, offset {published.offset} · sequence number {published.publish_number}"
    at = published_at(published, deliveries)
    return TimelineEntry(at, "Published", f"{where} · run {published.run}", "busy")


# The ends that no other entry shows: those of the row, of an operation and of a worker's event have their own.
_ENDS = {
    DeliveryOutcome.KILLED: ("Worker killed", "bad"),
    DeliveryOutcome.REVOKED: ("Partition revoked before the end", "warn"),
    DeliveryOutcome.LOST: ("Partition lost before the end", "bad"),
    DeliveryOutcome.STOPPED: ("Worker stopped before the end", "warn"),
    DeliveryOutcome.SILENT: ("Last sign of life of the worker", "bad"),
}
OUTCOMES = {
    DeliveryOutcome.RUNNING: ("in progress", "busy"),
    DeliveryOutcome.COMPLETED: ("completed", "good"),
    DeliveryOutcome.FAILED: ("failed", "bad"),
    DeliveryOutcome.CANCELLED: ("cancelled", "none"),
    DeliveryOutcome.KILLED: ("worker killed", "bad"),
    DeliveryOutcome.REVOKED: ("partition revoked", "warn"),
    DeliveryOutcome.LOST: ("partition lost", "bad"),
    DeliveryOutcome.STOPPED: ("worker stopped", "warn"),
    DeliveryOutcome.SILENT: ("worker silent", "bad"),
    DeliveryOutcome.REDELIVERED: ("redelivered", "warn"),
}


def delivery_outcome(delivery: Delivery) -> tuple[str, str]:
    """How a delivery ended, and its tone."""
    text, tone = OUTCOMES[delivery.outcome or DeliveryOutcome.RUNNING]
    if delivery.repeated:
        return f"{text} again, not used", "warn"
    return f"{text} by {delivery.ended_by}" if delivery.ended_by else text, tone


def _delivery(delivery: Delivery) -> list[TimelineEntry]:
    position = f"partition {delivery.partition}, offset {delivery.offset} · " if delivery.partition is not None else ""
    begin = f"{position}run {delivery.run}"
    entries = [TimelineEntry(delivery.started_at, f"Started by {delivery.worker_id}", begin, "busy")]
    if delivery.ended_at is None:
        return entries
    lasted = f"after {format_duration((delivery.ended_at - delivery.started_at).total_seconds())}"
    by = f" · by {delivery.ended_by}" if delivery.ended_by else ""
    if delivery.repeated:
        detail = f"{delivery.worker_id} · {lasted} · the run had ended, so it changed nothing"
        entries.append(TimelineEntry(delivery.ended_at, "Repeated result", detail, "warn"))
    elif delivery.outcome in _ENDS:
        what, tone = _ENDS[delivery.outcome]
        entries.append(TimelineEntry(delivery.ended_at, what, f"{delivery.worker_id} · {lasted}{by}", tone))
    return entries


def _event(event: WorkerEvent) -> TimelineEntry:
    stage = f" at {event.stage}" if event.stage else ""
    by = f"attempt {event.attempt} · {event.worker_id}" if event.attempt else event.worker_id
    match event.kind:
        case EventKind.RETRYING:
            delay = (
                f", next attempt in {format_duration(event.delay_seconds)}" if event.delay_seconds is not None else ""
            )
            what = f"Attempt {event.attempt or '?'} failed{stage}{delay}"
            return TimelineEntry(
                event.timestamp, what, f"{event.worker_id} · {event.error or 'no reason'}", "warn", event.trace or ""
            )
        case EventKind.DEAD_LETTERED:
            what = f"Dead-lettered{stage}"
            return TimelineEntry(
                event.timestamp, what, f"{by} · {event.error or 'no reason'}", "bad", event.trace or ""
            )
        case EventKind.CANCELLED:
            return TimelineEntry(event.timestamp, "Cancelled by the worker", by)
        case _:
            return TimelineEntry(event.timestamp, event.kind.value.capitalize(), by)


def _row_entries(file: FileRow, *, cancel_recorded: bool) -> list[TimelineEntry]:
    entries = []
    if file.status is Status.PROCESSING and file.steps:
        entries.append(
            TimelineEntry(file.updated_at, f"Step {file.step or 0} of {file.steps} done", file.worker_id or "", "busy")
        )
    if file.finished_at is not None and file.status is Status.COMPLETED:
        size = f" · {counted(file.size, 'byte')}" if file.size is not None else ""
        attempt = f" · attempt {file.attempt}" if file.attempt else ""
        by = f"{file.worker_id}{attempt}" if file.worker_id else "a foreign service"
        entries.append(
            TimelineEntry(file.finished_at, "Uploaded", f"{file.s3_location or '?'}{size} · by {by}", "good")
        )
        order = max(file.updated_at, file.finished_at)
        entries.append(
            TimelineEntry(file.updated_at, "Recorded", "the status sync updated the row", "good", order=order)
        )
    elif file.finished_at is not None and file.status is Status.FAILED:
        entries.append(TimelineEntry(file.finished_at, "Failed", file.error or "no reason given", "bad"))
    elif file.finished_at is not None and not cancel_recorded:
        entries.append(TimelineEntry(file.finished_at, "Cancelled", f"run {file.run}"))
    return entries


def state_diagram(history: FileTimeline) -> StateDiagram | None:
    """The state diagram with the path of the current run; None if there is no such file."""
    file = history.file
    if file is None:
        return None
    published = next((one for one in reversed(history.publications) if one.run == file.run), None)
    restarted_at = next(
        (one.at for one in reversed(history.operations) if one.run == file.run and one.action != "cancel"), None
    )
    accepted_at = file.created_at if file.run == 1 else restarted_at
    position = f"P{published.partition} · {published.offset}" if published else ""
    deliveries = [one for one in history.deliveries if one.run == file.run and not one.repeated]
    worker = deliveries[-1].worker_id if deliveries else (file.worker_id or "") if file.started_at else ""
    if len(deliveries) > 1:
        worker += f" · delivery {len(deliveries)}"
    # The wait ends with the first delivery. A worker of an older version reports no start.
    started_at = deliveries[0].started_at if deliveries else file.started_at
    in_outbox = history.waiting is not None and not file.status.terminal
    on_kafka = file.status is Status.PENDING and not in_outbox
    processing = file.status is Status.PROCESSING
    on_kafka_at = published_at(published, history.deliveries) if published else None
    moments = [accepted_at, on_kafka_at, started_at, file.finished_at]
    note = f"run {file.run}" if file.run > 1 else ""
    path = [
        StateNode("Accepted", note, accepted_at, None, current=in_outbox, tone="wait"),
        StateNode("On Kafka", position, moments[1], _after(moments, 1), current=on_kafka, tone="wait"),
        StateNode("Processing", worker, moments[2], _after(moments, 2), current=processing, tone="busy"),
    ]
    ends = [
        StateNode(
            status.value.capitalize(),
            "",
            file.finished_at if file.status is status else None,
            _after(moments, 3) if file.status is status else None,
            current=file.status is status,
            tone=TONES[status],
        )
        for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
    ]
    return StateDiagram(path, ends, file.run)


def _after(moments: Sequence[datetime | None], place: int) -> float | None:
    """Seconds since the last known moment before; 0 if the clocks contradict the order, None if one is unknown."""
    moment = moments[place]
    before = next((earlier for earlier in reversed(moments[:place]) if earlier is not None), None)
    if moment is None or before is None:
        return None
    return max(0.0, (moment - before).total_seconds())
