"""A file's timeline and state diagram, and why it waits."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.deliveries import Delivery, DeliveryOutcome
from filemill.domain.files import Status
from filemill.domain.worker_events import EventKind, Vitals, WorkerCondition, WorkerEvent
from filemill.queries.file_timeline import FileOperation, FileTimeline, PublishedRequest, WaitingRequest
from filemill.queries.files import OutboxState, StatusCounts
from filemill.queries.group import Flow, GroupMember, GroupState, Lags, LeaseState, PartitionLag
from filemill.queries.overview import Overview
from filemill.queries.workers import WorkerView
from filemill_dashboard.views.file_timeline import delivery_outcome, state_diagram, timeline_entries
from filemill_dashboard.views.visibility import Visibility
from filemill_dashboard.views.waiting import is_record_gone, why_waiting

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def file_row(status: Status, **given: Any) -> FileRow:
    blank: dict[str, Any] = dict.fromkeys(FileRow.__struct_fields__)
    values = {"id": 7, "title": "t", "description": "", "created_at": ago(60), "updated_at": ago(30), "run": 1}
    return FileRow(**{**blank, **values, "status": status, **given})


def history_of(status: Status, given: dict[str, Any] | None = None, **parts: Any) -> FileTimeline:
    return FileTimeline(as_of=NOW, file=file_row(status, **(given or {})), **parts)


def overview(owners: dict[str, list[int]], *, relay: bool = True) -> Overview:
    members = [GroupMember(name, name, "h", partitions) for name, partitions in owners.items()]
    return Overview(
        NOW,
        StatusCounts({}),
        OutboxState(0, None),
        GroupState(NOW, 0.0, "STABLE", "consumer", members),
        Lags(NOW, 0.0, [PartitionLag(2, 0, 100, 40, 60)]),
        Flow(None, None, 60),
        {"relay": LeaseState("relay", "r", held=relay)},
    )


def worker(name: str, condition: WorkerCondition, **vitals: Any) -> WorkerView:
    blank: dict[str, Any] = dict.fromkeys(WorkerView.__struct_fields__)
    values = {"id": name, "condition": condition, "heard_seconds_ago": 9.0, "last_word": "", "starts": 1, "owned": [2]}
    return WorkerView(**{**blank, **values, "vitals": Vitals(**vitals)})


ON_KAFKA = [PublishedRequest(1, 5, 2, 50, ago(59))]


@pytest.mark.parametrize(
    ("parts", "view", "workers", "tone", "what"),
    [
        ({"waiting": WaitingRequest(1, ago(1), None, 3)}, overview({}), [], "none", "In the outbox, not published yet"),
        ({"waiting": WaitingRequest(1, ago(30), None, 3)}, overview({}), [], "warn", "In the outbox"),
        ({"waiting": WaitingRequest(1, ago(1), None, 3)}, overview({}, relay=False), [], "bad", "no relay is active"),
        ({}, overview({}), [], "none", "Its position on Kafka is unknown"),
        ({"publications": ON_KAFKA}, None, [], "none", "Published at partition 2, offset 50"),
        ({"publications": ON_KAFKA}, overview({"w": [0, 1]}), [], "bad", "Partition 2 has no owner"),
        (
            {"publications": ON_KAFKA},
            overview({"w": [2]}),
            [],
            "none",
            "Waiting in the backlog at partition 2, offset 50",
        ),
        (
            {"publications": ON_KAFKA},
            overview({"w": [2]}),
            [worker("w", WorkerCondition.DEAD)],
            "bad",
            "w owns partition 2 and is dead",
        ),
        (
            {"publications": ON_KAFKA},
            overview({"w": [2]}),
            [worker("w", WorkerCondition.IDLE, quiet=True)],
            "warn",
            "w is quiet",
        ),
        (
            {"publications": ON_KAFKA},
            overview({"w": [2]}),
            [worker("w", WorkerCondition.BUSY, breaker="S3 unreachable")],
            "warn",
            "w is paused: S3 unreachable",
        ),
        (
            {"publications": ON_KAFKA},
            overview({"w": [2]}),
            [worker("w", WorkerCondition.BUSY, paused=True)],
            "none",
            "w has reached its limit of unfinished records",
        ),
    ],
)
def test_why_a_pending_file_waits(
    parts: dict[str, Any], view: Overview | None, workers: list[WorkerView], tone: str, what: str
) -> None:
    reason = why_waiting(history_of(Status.PENDING, **parts), view, workers)
    assert reason is not None
    assert (reason.tone, what in reason.what) == (tone, True), reason


def with_lags(view: Overview, *, begin: int, committed: int | None, generation: int = 1) -> Overview:
    lag = PartitionLag(2, begin, max(100, begin), committed, 0)
    return msgspec.structs.replace(view, lags=Lags(NOW, 0.0, [lag], generation))


@pytest.mark.parametrize(
    ("view", "workers", "gone"),
    [
        (with_lags(overview({}), begin=60, committed=40), [], True),
        (with_lags(overview({}), begin=50, committed=40), [], False),
        (with_lags(overview({}), begin=60, committed=None), [], True),
        (
            with_lags(overview({"w": [2]}), begin=60, committed=40),
            [worker("w", WorkerCondition.BUSY, in_flight=3)],
            False,
        ),
        (
            with_lags(overview({"w": [2]}), begin=60, committed=55),
            [worker("w", WorkerCondition.BUSY, in_flight=3)],
            True,
        ),
        (
            with_lags(overview({"w": [2]}), begin=60, committed=40),
            [worker("w", WorkerCondition.IDLE, quiet=True)],
            False,
        ),
        (with_lags(overview({"w": [2]}), begin=60, committed=40), [worker("w", WorkerCondition.IDLE)], True),
        (with_lags(overview({"kafkajs": [2]}), begin=60, committed=40), [], False),
        (with_lags(overview({}), begin=0, committed=0, generation=2), [], True),
        (overview({"w": [2]}), [], False),
        (None, [], False),
    ],
)
def test_a_file_whose_record_was_removed_from_kafka_is_not_in_the_backlog(
    view: Overview | None, workers: list[WorkerView], gone: bool
) -> None:
    found = history_of(Status.PENDING, publications=ON_KAFKA)
    assert is_record_gone(found, view, workers) is gone
    reason = why_waiting(found, view, workers)
    assert reason is not None
    assert ("removed from Kafka" in reason.what) is gone
    assert not is_record_gone(history_of(Status.CANCELLED, publications=ON_KAFKA), view, workers)
    assert not is_record_gone(
        history_of(Status.PENDING, publications=ON_KAFKA, waiting=WaitingRequest(1, ago(1), 5, 0)), view, []
    )


def test_a_record_in_progress_is_not_lost_although_kafka_removed_it() -> None:
    found = history_of(Status.PROCESSING, {"worker_id": "w"}, publications=ON_KAFKA)
    view = with_lags(overview({}), begin=0, committed=0, generation=2)
    assert not is_record_gone(found, view, [worker("w", WorkerCondition.BUSY, in_flight=1)])
    assert is_record_gone(found, view, [worker("w", WorkerCondition.DEAD, in_flight=1)])


def test_the_uncommitted_records_before_it_are_counted() -> None:
    reason = why_waiting(history_of(Status.PENDING, publications=ON_KAFKA), overview({"w": [2]}), [])
    assert reason is not None
    assert reason.text == "w reads this partition. 10 records before it are not committed yet."


def test_a_retry_shows_the_error_and_the_time_of_the_next_attempt() -> None:
    event = WorkerEvent(
        kind=EventKind.RETRYING, worker_id="w", timestamp=ago(1), run=1, attempt=2, stage="upload", delay_seconds=5,
        error="503",
    )  # fmt: skip
    reason = why_waiting(history_of(Status.PROCESSING, publications=ON_KAFKA, events=[event]), None, [])
    assert reason is not None
    assert (reason.tone, reason.what) == ("warn", "Attempt 2 failed at upload: 503")
    assert reason.text == "The next attempt is in 4.0 s."


@pytest.mark.parametrize(
    ("condition", "tone", "what"),
    [
        (WorkerCondition.BUSY, "none", "In progress: step 2 of 6"),
        (WorkerCondition.DEAD, "bad", "Its worker w is dead"),
        (WorkerCondition.STOPPED, "warn", "Its worker w has stopped"),
        (WorkerCondition.STUCK, "bad", "w is stuck"),
    ],
)
def test_a_file_in_progress_depends_on_its_worker(condition: WorkerCondition, tone: str, what: str) -> None:
    given = {"worker_id": "w", "step": 2, "steps": 6, "partition": 2}
    reason = why_waiting(history_of(Status.PROCESSING, given), None, [worker("w", condition)])
    assert reason is not None
    assert (reason.tone, reason.what) == (tone, what)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_a_file_in_a_terminal_status_does_not_wait(status: Status) -> None:
    assert why_waiting(history_of(status), None, []) is None


def test_the_timeline_shows_both_runs_in_order() -> None:
    dead_lettered = WorkerEvent(
        kind=EventKind.DEAD_LETTERED, worker_id="w", timestamp=ago(55), run=1, attempt=5, stage="upload", error="no",
        trace="Trace …",
    )  # fmt: skip
    found = history_of(
        Status.COMPLETED,
        {"run": 2, "started_at": ago(40), "finished_at": ago(35), "updated_at": ago(34), "worker_id": "w", "size": 9},
        publications=[*ON_KAFKA, PublishedRequest(2, 6, 0, 51, ago(39))],
        events=[dead_lettered],
        operations=[FileOperation(ago(50), "cli:ana", "retry", 2)],
        deliveries=[delivery("w", 40, 35, DeliveryOutcome.COMPLETED, run=2)],
    )
    entries = timeline_entries(found)
    assert [entry.what for entry in entries] == [
        "Accepted",
        "Published",
        "Dead-lettered at upload",
        "Retried as a new run",
        "Published",  # stored after the worker started it, and shown before
        "Started by w",
        "Uploaded",
        "Recorded",
    ]
    assert entries[2].trace == "Trace …"
    assert entries[3].detail == "run 2 · by cli:ana"


def delivery(
    worker_id: str, begin: float, end: float | None, outcome: DeliveryOutcome, *, run: int = 1, **more: Any
) -> Delivery:
    """A delivery that began and ended so many seconds ago."""
    ended_at = None if end is None else ago(end)
    given = {"worker_id": worker_id, "started_at": ago(begin), "ended_at": ended_at, "outcome": outcome}
    return Delivery(**{"run": run, "partition": 2, "offset": 50, **given, **more})


def test_a_redelivery_after_a_kill_has_both_workers_and_the_true_wait() -> None:
    found = history_of(
        Status.PROCESSING,
        {"worker_id": "b", "started_at": ago(4), "updated_at": ago(1), "step": 3, "steps": 6},
        publications=[PublishedRequest(1, 5, 2, 50, ago(15))],
        deliveries=[
            delivery("a", 14, 10, DeliveryOutcome.KILLED, ended_by="page"),
            delivery("b", 4, None, DeliveryOutcome.RUNNING),
        ],
    )
    entries = [(entry.what, entry.detail) for entry in timeline_entries(found)]
    assert entries[2:5] == [
        ("Started by a", "partition 2, offset 50 · run 1"),
        ("Worker killed", "a · after 4.0 s · by page"),
        ("Started by b", "partition 2, offset 50 · run 1"),
    ]
    assert [delivery_outcome(one) for one in found.deliveries] == [
        ("worker killed by page", "bad"),
        ("in progress", "busy"),
    ]
    diagram = state_diagram(found)
    assert diagram is not None
    assert [node.after_seconds for node in diagram.path] == [None, 45.0, 1.0], "the first worker started it after 1 s"
    assert diagram.path[2].note == "b · delivery 2"


def test_a_result_of_a_run_that_had_ended_is_a_repeated_one() -> None:
    found = history_of(
        Status.COMPLETED,
        {"worker_id": "a", "started_at": ago(40), "finished_at": ago(35), "updated_at": ago(34)},
        deliveries=[
            delivery("a", 40, 35, DeliveryOutcome.COMPLETED),
            delivery("b", 39, 30, DeliveryOutcome.COMPLETED, repeated=True),
        ],
    )
    assert delivery_outcome(found.deliveries[1]) == ("completed again, not used", "warn")
    assert timeline_entries(found)[-1].what == "Repeated result"
    diagram = state_diagram(found)
    assert diagram is not None
    assert diagram.path[2].note == "a"


def test_the_state_diagram_shows_the_path_of_the_current_run() -> None:
    found = history_of(
        Status.FAILED,
        {"run": 2, "finished_at": ago(35), "started_at": ago(36), "worker_id": "w"},
        publications=[PublishedRequest(2, 6, 0, 51, ago(39))],
        operations=[FileOperation(ago(50), "page", "retry", 2)],
    )
    diagram = state_diagram(found)
    assert diagram is not None
    assert [node.after_seconds for node in diagram.path] == [None, 11.0, 3.0]
    assert [(node.name, node.current, node.after_seconds) for node in diagram.ends] == [
        ("Completed", False, None),
        ("Failed", True, 1.0),
        ("Cancelled", False, None),
    ]
    assert diagram.run == 2


def test_a_file_in_the_outbox_is_in_the_first_state() -> None:
    diagram = state_diagram(history_of(Status.PENDING, waiting=WaitingRequest(1, ago(1), None, 0)))
    assert diagram is not None
    assert [node.current for node in diagram.path] == [True, False, False]
    diagram = state_diagram(history_of(Status.PENDING, publications=ON_KAFKA))
    assert diagram is not None
    assert [node.current for node in diagram.path] == [False, True, False]


def test_during_an_outage_of_kafka_no_other_reason_is_given() -> None:
    away = Visibility(frozenset({"kafka"}), reachable_seconds=0, events_seconds=0)
    dead = [worker("w", WorkerCondition.DEAD)]
    processing = history_of(Status.PROCESSING, {"worker_id": "w"}, publications=ON_KAFKA)
    reason = why_waiting(processing, overview({"w": [2]}), dead, visibility=away)
    assert reason is not None
    assert (reason.tone, reason.what) == ("warn", "Its progress is unknown: Kafka is unreachable")
    waiting = history_of(Status.PENDING, waiting=WaitingRequest(1, ago(30), None, 3))
    reason = why_waiting(waiting, overview({}, relay=False), [], visibility=away)
    assert reason is not None
    assert reason.what == "In the outbox, because Kafka is unreachable"


def test_after_an_outage_a_worker_that_was_not_heard_of_is_not_called_dead() -> None:
    back = Visibility(reachable_seconds=3, events_seconds=3)
    dead = [worker("w", WorkerCondition.DEAD)]
    for history in (
        history_of(Status.PROCESSING, {"worker_id": "w"}, publications=ON_KAFKA),
        history_of(Status.PENDING, publications=ON_KAFKA),
    ):
        reason = why_waiting(history, overview({"w": [2]}), dead, visibility=back)
        assert reason is not None
        assert (reason.tone, reason.what) == ("warn", "The state of its worker w is unknown")
