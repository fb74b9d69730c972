"""Why a file is not finished: the one reason that applies now. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.files import Status
from filemill.domain.request_losses import PartitionRange, loss_bounds
from filemill.domain.worker_events import EventKind, WorkerCondition, WorkerEvent
from filemill.queries.file_timeline import FileTimeline, PublishedRequest, WaitingRequest
from filemill.queries.overview import Overview
from filemill.queries.workers import WorkerView
from filemill_dashboard.views.durations import format_duration
from filemill_dashboard.views.plurals import counted
from filemill_dashboard.views.visibility import CLEAR, ShownState, Visibility

# A request leaves the outbox within milliseconds. If it waits for this long, something holds it up.
OUTBOX_SECONDS = 5.0
# An event has the worker's clock, a row the database's: they may differ by this much.
SKEW = timedelta(seconds=2)


@dataclass(frozen=True)
class WaitingReason:
    """Why a file is not finished: `tone` is none if all is normal, warn or bad if an operator should look at it."""

    tone: str
    what: str
    text: str = ""


def why_waiting(
    history: FileTimeline,
    overview: Overview | None,
    workers: Sequence[WorkerView],
    *,
    visibility: Visibility = CLEAR,
    embedded: bool = False,
) -> WaitingReason | None:
    """What a file waits for now; None if it does not wait.

    `embedded`: a supervisor restarts the workers, and the Workers page scales them.
    """
    file = history.file
    if file is None or file.status.terminal:
        return None
    if history.waiting is not None:
        return _in_outbox(history, history.waiting, overview, visibility, embedded=embedded)
    if not visibility.events_known:
        last = f"The last known status is {file.status}." if file.status is not Status.PENDING else ""
        return WaitingReason("warn", f"Its progress is unknown: {visibility.obstacle}", last)
    gone = visibility.settled and is_record_gone(history, overview, workers)
    first = _record_gone(history, file) if gone else _retrying(history, file)
    return first or _underway(history, file, overview, workers, visibility, embedded=embedded)


def _underway(
    history: FileTimeline,
    file: FileRow,
    overview: Overview | None,
    workers: Sequence[WorkerView],
    visibility: Visibility,
    *,
    embedded: bool,
) -> WaitingReason:
    known = {worker.id: worker for worker in workers}
    if file.status is Status.PROCESSING:
        return _in_progress(file, known, visibility)
    position = _position(history)
    if position is None:
        return WaitingReason(
            "none", "Its position on Kafka is unknown", "The relay has not published it yet, or another program did."
        )
    return _in_backlog(position, overview, known, visibility, embedded=embedded)


def is_record_gone(history: FileTimeline, overview: Overview | None, workers: Sequence[WorkerView]) -> bool:
    """Whether the record of an unfinished file was removed from Kafka, by the monitor's last sample."""
    file, position = history.file, _position(history)
    if file is None or file.status.terminal or history.waiting is not None or position is None:
        return False
    if overview is None or overview.lags is None or overview.group is None:
        return False
    known = {worker.id: worker for worker in workers}
    if file.status is Status.PROCESSING and _may_hold(known.get(file.worker_id or "")):
        return False
    if position.generation != overview.lags.generation:
        return True
    shares = overview.group.protocol == "share"
    holders = [one for one in overview.group.members if _may_hold(known.get(one.client_id), if_unknown=True)]
    spans = [
        PartitionRange(part.partition, part.begin_offset or 0, part.end_offset or 0, part.committed_offset)
        for part in overview.lags.partitions
    ]
    owned = {partition for one in holders for partition in one.partitions}
    found = loss_bounds(overview.lags.generation, spans, owned, share_group=shares, results_applied=False)
    return position.offset < found.removed.get(position.partition, 0)


def _may_hold(worker: WorkerView | None, *, if_unknown: bool = False) -> bool:
    """Whether a worker may have an unfinished record. `if_unknown` is the result for a worker without events."""
    if worker is None or worker.vitals is None:
        return if_unknown
    if worker.condition in (WorkerCondition.DEAD, WorkerCondition.STOPPED):
        return False
    return worker.vitals.in_flight > 0 or worker.vitals.quiet or worker.vitals.breaker is not None


def _position(history: FileTimeline) -> PublishedRequest | None:
    run = history.file.run if history.file is not None else None
    return next((one for one in reversed(history.publications) if one.run == run), None)


def _record_gone(history: FileTimeline, file: FileRow) -> WaitingReason:
    position = _position(history)
    former = f"It was at partition {position.partition}, offset {position.offset}. " if position is not None else ""
    text = f"{former}Retention removed it, or its topic was deleted. Retry submits it again, as run {file.run + 1}."
    return WaitingReason("bad", "Its record was removed from Kafka, so no worker will process it", text)


def _in_outbox(
    history: FileTimeline,
    waiting: WaitingRequest,
    overview: Overview | None,
    visibility: Visibility,
    *,
    embedded: bool,
) -> WaitingReason:
    seconds = (history.as_of - waiting.accepted_at).total_seconds()
    ahead = f", behind {counted(waiting.ahead, 'request')}" if waiting.ahead else ""
    since = f"It has waited for {format_duration(seconds)}{ahead}."
    if not visibility.events_known:
        text = f"{since} It is published when the server is reachable again."
        return WaitingReason("warn", f"In the outbox, because {visibility.obstacle}", text)
    relay = overview.leases.get("relay") if overview else None
    if relay is not None and not relay.held and visibility.settled:
        start = "The stack restarts it within seconds." if embedded else "Start `filemill run relay`."
        return WaitingReason("bad", "In the outbox, and no relay is active", f"{since} {start}")
    tone = "warn" if seconds > OUTBOX_SECONDS else "none"
    return WaitingReason(tone, "In the outbox, not published yet", since)


def _retrying(history: FileTimeline, file: FileRow) -> WaitingReason | None:
    last: WorkerEvent | None = history.events[-1] if history.events else None
    if last is None or last.kind is not EventKind.RETRYING or (last.run or 1) != file.run:
        return None
    if last.timestamp < file.updated_at - SKEW:
        return None
    left = (last.timestamp + timedelta(seconds=last.delay_seconds or 0.0) - history.as_of).total_seconds()
    what = f"Attempt {last.attempt or '?'} failed at {last.stage or '?'}: {last.error or 'no reason given'}"
    return WaitingReason(
        "warn", what, f"The next attempt is in {format_duration(left)}." if left > 0 else "The next attempt is due."
    )


def _in_backlog(
    position: PublishedRequest,
    overview: Overview | None,
    workers: dict[str, WorkerView],
    visibility: Visibility,
    *,
    embedded: bool,
) -> WaitingReason:
    where = f"partition {position.partition}, offset {position.offset}"
    if overview is None or overview.group is None or overview.lags is None:
        text = "The group monitor has not reported, so the owner of the partition is unknown."
        return WaitingReason("none", f"Published at {where}", text)
    owner = next((one for one in overview.group.members if position.partition in one.partitions), None)
    if owner is None:
        remedy = "Scale the file processors on the Workers page" if embedded else "Start a file processor"
        text = f"Its record is at offset {position.offset}. {remedy}, or wait for the rebalance."
        tone = "bad" if visibility.settled else "warn"
        return WaitingReason(tone, f"Partition {position.partition} has no owner", text)
    lag = next((part for part in overview.lags.partitions if part.partition == position.partition), None)
    committed = lag.committed_offset if lag else None
    ahead = None if committed is None else max(0, position.offset - committed)
    before = (
        "" if ahead is None else f" {counted(ahead, 'record before it is', 'records before it are')} not committed yet."
    )
    worker = workers.get(owner.client_id)
    obstacle = _obstacle(worker, position.partition, before, visibility) if worker is not None else None
    return obstacle or WaitingReason(
        "none", f"Waiting in the backlog at {where}", f"{owner.client_id} reads this partition.{before}"
    )


def _obstacle(worker: WorkerView, partition: int, before: str, visibility: Visibility) -> WaitingReason | None:
    """What keeps the owner of a partition from reading it."""
    vitals = worker.vitals
    if worker.condition is WorkerCondition.DEAD:
        silence = format_duration(worker.heard_seconds_ago)
        text = f"No heartbeat for {silence}. The group will assign the partition to another worker."
        dead = WaitingReason("bad", f"{worker.id} owns partition {partition} and is dead", text)
        return _unheard(worker, visibility) or dead
    if vitals is None:
        return None
    if vitals.quiet:
        text = f"It owns partition {partition} and takes no new records. Resume it on the Workers page."
        return WaitingReason("warn", f"{worker.id} is quiet", text)
    if vitals.breaker:
        return WaitingReason(
            "warn", f"{worker.id} is paused: {vitals.breaker}", "It continues when the server is reachable again."
        )
    if vitals.paused:
        text = f"It owns partition {partition} and reads more when it has finished some.{before}"
        return WaitingReason("none", f"{worker.id} has reached its limit of unfinished records", text)
    return None


def _unheard(worker: WorkerView, visibility: Visibility) -> WaitingReason | None:
    """The reason for a worker that was not heard of, if that means nothing; None if it is dead."""
    if visibility.worker_state(worker) is ShownState.DEAD:
        return None
    text = "After an outage, workers need some seconds to reconnect." if not visibility.silence_known else ""
    return WaitingReason("warn", f"The state of its worker {worker.id} is unknown", text)


def _in_progress(file: FileRow, workers: dict[str, WorkerView], visibility: Visibility) -> WaitingReason:
    step = f"step {file.step or 0} of {file.steps}" if file.steps else "started"
    worker = workers.get(file.worker_id or "")
    if worker is None:
        return WaitingReason("none", f"In progress: {step}", f"By {file.worker_id or 'an unknown worker'}.")
    if worker.condition is WorkerCondition.DEAD:
        if (unheard := _unheard(worker, visibility)) is not None:
            return unheard
        silence = format_duration(worker.heard_seconds_ago)
        text = f"No heartbeat for {silence}. The next owner of partition {file.partition} reprocesses it."
        return WaitingReason("bad", f"Its worker {worker.id} is dead", text)
    if worker.condition is WorkerCondition.STOPPED:
        return WaitingReason("warn", f"Its worker {worker.id} has stopped", "Another worker reprocesses it.")
    if worker.condition is WorkerCondition.STUCK:
        busy = format_duration(worker.vitals.busy_seconds) if worker.vitals else "long"
        return WaitingReason(
            "bad", f"{worker.id} is stuck", f"It sends heartbeats but has finished nothing for {busy}."
        )
    return WaitingReason("none", f"In progress: {step}", f"{worker.id} processes it.")
