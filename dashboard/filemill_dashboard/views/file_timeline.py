"""The timeline and the state diagram of one file, from its row, its events and the audit record. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from filemill.adapters.postgres.file_rows import FileRow
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
    entries += [_publication(published, file) for published in history.publications]
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


def _publication(published: PublishedRequest, file: FileRow) -> TimelineEntry:
    """The acknowledgement of the broker is stored later than a worker may have started the record."""
    where = f"partition {published.partition}, offset {published.offset} · sequence number {published.publish_number}"
    started_at = file.started_at if published.run == file.run else None
    order = min(published.published_at, started_at) if started_at is not None else None
    return TimelineEntry(published.published_at, "Published", f"{where} · run {published.run}", "busy", order=order)


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
    if file.started_at is not None:
        position = f" · partition {file.partition}, offset {file.offset}" if file.partition is not None else ""
        attempt = f" · attempt {file.attempt}" if file.attempt else ""
        entries.append(
            TimelineEntry(file.started_at, "Started by a worker", f"{file.worker_id or '?'}{position}{attempt}", "busy")
        )
    if file.status is Status.PROCESSING and file.steps:
        entries.append(
            TimelineEntry(file.updated_at, f"Step {file.step or 0} of {file.steps} done", file.worker_id or "", "busy")
        )
    if file.finished_at is not None and file.status is Status.COMPLETED:
        size = f" · {counted(file.size, 'byte')}" if file.size is not None else ""
        by = file.worker_id or "a foreign service"
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
    worker = f"{file.worker_id or '?'}" if file.started_at or file.status is Status.PROCESSING else ""
    started_at = file.started_at or (file.updated_at if file.status is Status.PROCESSING else None)
    in_outbox = history.waiting is not None and not file.status.terminal
    on_kafka = file.status is Status.PENDING and not in_outbox
    processing = file.status is Status.PROCESSING
    moments = [accepted_at, published.published_at if published else None, started_at, file.finished_at]
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
