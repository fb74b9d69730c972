"""Why is this waiting? One answer for a file that has not ended. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.files import Status
from filemill.domain.request_losses import PartitionRange, loss_bounds
from filemill.domain.worker_events import EventKind, WorkerCondition, WorkerEvent
from filemill.queries.file_timeline import FileStory, Published, Waiting
from filemill.queries.group import Overview
from filemill.queries.workers import WorkerView
from filemill_dashboard.views.durations import format_duration

# A request is through the outbox within milliseconds; one that waits for this long waits for something.
OUTBOX_SECONDS = 5.0
# An event's clock is the worker's, the row's is the database's: they may differ by this much.
SKEW = timedelta(seconds=2)


@dataclass(frozen=True)
class WaitingReason:
    """Why a file is not finished yet: `tone` none where all goes its way, warn or bad where somebody should look."""

    tone: str
    what: str
    text: str = ""


def why_waiting(story: FileStory, overview: Overview | None, workers: Sequence[WorkerView]) -> WaitingReason | None:
    """The one thing that a file waits for now; None where it does not wait."""
    file = story.file
    if file is None or file.status.terminal:
        return None
    if story.waiting is not None:
        return _in_outbox(story, story.waiting, overview)
    first = _gone(story, file) if is_record_gone(story, overview, workers) else _retrying(story, file)
    if first is not None:
        return first
    if file.status is Status.PROCESSING:
        return _in_progress(file, {worker.id: worker for worker in workers})
    place = _place(story)
    if place is None:
        return WaitingReason(
            "none", "Where it is on Kafka is not known", "Somebody else published it, or it is about to be."
        )
    return _in_backlog(place, overview, {worker.id: worker for worker in workers})


def is_record_gone(story: FileStory, overview: Overview | None, workers: Sequence[WorkerView]) -> bool:
    """Whether the record of a file that has not ended is gone from Kafka, by the monitor's last sample."""
    file, place = story.file, _place(story)
    if file is None or file.status.terminal or story.waiting is not None or place is None:
        return False
    if overview is None or overview.lags is None or overview.group is None:
        return False
    known = {worker.id: worker for worker in workers}
    if file.status is Status.PROCESSING and _may_hold(known.get(file.worker_id or "")):
        return False
    if place.generation != overview.lags.generation:
        return True
    shares = overview.group.protocol == "share"
    holders = [one for one in overview.group.members if _may_hold(known.get(one.client_id), stranger=True)]
    spans = [
        PartitionRange(part.partition, part.begin_offset or 0, part.end_offset or 0, part.committed_offset)
        for part in overview.lags.partitions
    ]
    owned = {partition for one in holders for partition in one.partitions}
    found = loss_bounds(overview.lags.generation, spans, owned, share_group=shares, results_applied=False)
    return place.offset < found.removed.get(place.partition, 0)


def _may_hold(worker: WorkerView | None, *, stranger: bool = False) -> bool:
    """Whether a worker may have a record that it has not finished. `stranger`: whether one that we do not know may."""
    if worker is None or worker.vitals is None:
        return stranger
    if worker.condition in (WorkerCondition.DEAD, WorkerCondition.STOPPED):
        return False
    return worker.vitals.in_flight > 0 or worker.vitals.quiet or worker.vitals.breaker is not None


def _place(story: FileStory) -> Published | None:
    run = story.file.run if story.file is not None else None
    return next((one for one in reversed(story.publications) if one.run == run), None)


def _gone(story: FileStory, file: FileRow) -> WaitingReason:
    place = _place(story)
    where = f"It was at partition {place.partition}, offset {place.offset}. " if place is not None else ""
    text = f"{where}Retention removed it, or its topic was deleted. Retry submits it again, as run {file.run + 1}."
    return WaitingReason("bad", "Its record is gone from Kafka: no worker will process it", text)


def _in_outbox(story: FileStory, waiting: Waiting, overview: Overview | None) -> WaitingReason:
    seconds = (story.as_of - waiting.accepted_at).total_seconds()
    since = f"For {format_duration(seconds)}; {waiting.ahead:,} {'request is' if waiting.ahead == 1 else 'requests are'} before it."
    relay = overview.leases.get("relay") if overview else None
    if relay is not None and not relay.held:
        return WaitingReason(
            "bad", "It waits in the outbox, and no relay is active", f"{since} Start `filemill run relay`."
        )
    tone = "warn" if seconds > OUTBOX_SECONDS else "none"
    return WaitingReason(tone, "It waits in the outbox: it is not on Kafka yet", since)


def _retrying(story: FileStory, file: FileRow) -> WaitingReason | None:
    last: WorkerEvent | None = story.events[-1] if story.events else None
    if last is None or last.kind is not EventKind.RETRYING or (last.run or 1) != file.run:
        return None
    if last.timestamp < file.updated_at - SKEW:
        return None
    left = (last.timestamp + timedelta(seconds=last.delay_seconds or 0.0) - story.as_of).total_seconds()
    what = f"Attempt {last.attempt or '?'} failed at {last.stage or '?'}: {last.error or 'no reason given'}"
    return WaitingReason(
        "warn", what, f"The next attempt is in {format_duration(left)}." if left > 0 else "It is being tried again."
    )


def _in_backlog(place: Published, overview: Overview | None, workers: dict[str, WorkerView]) -> WaitingReason:
    where = f"partition {place.partition}, offset {place.offset}"
    if overview is None or overview.group is None or overview.lags is None:
        text = "The group monitor has not reported: who reads there is not known."
        return WaitingReason("none", f"It is on Kafka at {where}", text)
    owner = next((one for one in overview.group.members if place.partition in one.partitions), None)
    if owner is None:
        text = f"Its record is at offset {place.offset} there. Start a file processor, or wait for the rebalance."
        return WaitingReason("bad", f"Nobody reads partition {place.partition}", text)
    lag = next((part for part in overview.lags.partitions if part.partition == place.partition), None)
    committed = lag.committed_offset if lag else None
    ahead = None if committed is None else max(0, place.offset - committed)
    before = "" if ahead is None else f" {ahead:,} records before it are not committed yet."
    worker = workers.get(owner.client_id)
    hindrance = _hindrance(worker, place.partition, before) if worker is not None else None
    return hindrance or WaitingReason(
        "none", f"It waits its turn on {where}", f"{owner.client_id} reads there.{before}"
    )


def _hindrance(worker: WorkerView, partition: int, before: str) -> WaitingReason | None:
    """What keeps the owner of a partition from reading on."""
    vitals = worker.vitals
    if worker.condition is WorkerCondition.DEAD:
        text = f"For {format_duration(worker.heard_seconds_ago)}. The group gives the partition to another one soon."
        return WaitingReason("bad", f"{worker.id} owns partition {partition} and is silent", text)
    if vitals is None:
        return None
    if vitals.quiet:
        text = f"It owns partition {partition} and takes nothing new. Have it go on, on the page Workers."
        return WaitingReason("warn", f"{worker.id} was told to be quiet", text)
    if vitals.breaker:
        return WaitingReason("warn", f"{worker.id} pauses: {vitals.breaker}", "It goes on by itself when that is over.")
    if vitals.paused:
        text = f"It owns partition {partition} and reads on as it finishes.{before}"
        return WaitingReason("none", f"{worker.id} holds as many records as it may", text)
    return None


def _in_progress(file: FileRow, workers: dict[str, WorkerView]) -> WaitingReason:
    step = f"step {file.step or 0} of {file.steps}" if file.steps else "begun"
    worker = workers.get(file.worker_id or "")
    if worker is None:
        return WaitingReason("none", f"In progress: {step}", f"By {file.worker_id or 'an unknown worker'}.")
    if worker.condition is WorkerCondition.DEAD:
        text = f"Silent for {format_duration(worker.heard_seconds_ago)}. The next owner of partition {file.partition} does it anew."
        return WaitingReason("bad", f"{worker.id}, which had it, is dead", text)
    if worker.condition is WorkerCondition.STOPPED:
        return WaitingReason("warn", f"{worker.id}, which had it, has stopped", "Another worker does it anew.")
    if worker.condition is WorkerCondition.STUCK:
        busy = format_duration(worker.vitals.busy_seconds) if worker.vitals else "long"
        return WaitingReason("bad", f"{worker.id} is stuck", f"It speaks, but has finished nothing for {busy}.")
    return WaitingReason("none", f"In progress: {step}", f"{worker.id} is at it.")
