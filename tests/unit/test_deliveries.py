"""Each delivery of a file has its worker, its begin, its end and how it ended."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from filemill.domain.deliveries import (
    Delivery,
    DeliveryEvidence,
    DeliveryOutcome,
    RowDelivery,
    WorkerKill,
    WorkerSign,
    resolve_deliveries,
)
from filemill.domain.files import Status
from filemill.domain.worker_events import EventKind, WorkerEvent

T0 = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def begun(worker: str, seconds: float, **more: Any) -> Delivery:
    return Delivery(**{"run": 1, "worker_id": worker, "partition": 2, "offset": 50, "started_at": at(seconds), **more})


def row(status: Status, worker: str | None = None, started: float | None = None, **more: Any) -> RowDelivery:
    started_at = None if started is None else at(started)
    given = {"run": 1, "partition": 2, "offset": 50, "finished_at": None, "started_at": started_at, **more}
    return RowDelivery(status=status, worker_id=worker, **given)


def resolved(
    stored: list[Delivery], current: RowDelivery, now: float = 60, **evidence: Any
) -> list[tuple[str, float | None, str]]:
    """Worker, seconds at the end, and outcome of each delivery."""
    known: dict[str, Any] = {"heard_at": {"a": at(now), "b": at(now)}, **evidence}
    found = resolve_deliveries(stored, current, DeliveryEvidence(**known), at(now))
    return [
        (one.worker_id, None if one.ended_at is None else (one.ended_at - T0).total_seconds(), str(one.outcome))
        for one in found
    ]


def test_a_redelivery_after_a_kill_shows_both_workers_while_the_second_one_works() -> None:
    processing = row(Status.PROCESSING, "b", 10)
    signs = [WorkerSign("a", EventKind.STARTED, at(5), [], at(4))]
    assert resolved([begun("a", 0), begun("b", 10)], processing, signs=signs) == [
        ("a", 4.0, "killed"),
        ("b", None, "running"),
    ]


def test_a_recorded_kill_gives_the_time_and_the_actor() -> None:
    evidence = DeliveryEvidence(
        signs=[WorkerSign("a", EventKind.STARTED, at(7), [], at(4))],
        kills=[WorkerKill("other", at(1), "page"), WorkerKill("a", at(5), "cli:ana")],
    )
    (one,) = resolve_deliveries([begun("a", 0)], row(Status.PROCESSING, "a", 0), evidence, at(8))
    assert (one.ended_at, one.outcome, one.ended_by) == (at(5), DeliveryOutcome.KILLED, "cli:ana")


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        (WorkerSign("a", EventKind.REVOKED, at(3), [1, 2]), ("a", 3.0, "revoked")),
        (WorkerSign("a", EventKind.REVOKED, at(3), [1]), ("a", None, "redelivered")),
        (WorkerSign("a", EventKind.LOST, at(3), [2]), ("a", 3.0, "lost")),
        (WorkerSign("a", EventKind.STOPPED, at(3)), ("a", 3.0, "stopped")),
        (WorkerSign("a", EventKind.STOPPED, at(-3)), ("a", None, "redelivered")),
        (WorkerSign("b", EventKind.LOST, at(3), [2]), ("a", None, "redelivered")),
    ],
)
def test_the_first_sign_of_its_worker_after_the_begin_ends_a_delivery(
    sign: WorkerSign, expected: tuple[str, float | None, str]
) -> None:
    deliveries = resolved([begun("a", 0)], row(Status.COMPLETED, "b", 10, finished_at=at(15)), signs=[sign])
    assert deliveries == [expected, ("b", 15.0, "completed")]


def test_a_silent_worker_ends_nothing_for_certain() -> None:
    processing = row(Status.PROCESSING, "a", 0)
    assert resolved([begun("a", 0)], processing, heard_at={"a": at(4)}) == [("a", 4.0, "silent")]
    assert resolved([begun("a", 0)], processing, now=8, heard_at={"a": at(4)}) == [("a", None, "running")]


def test_a_file_cancelled_while_processing_has_its_worker_and_both_times() -> None:
    cancelled = row(Status.CANCELLED, "a", 1, finished_at=at(9))
    evidence = DeliveryEvidence(cancelled_by={1: "page"})
    (one,) = resolve_deliveries([begun("a", 1)], cancelled, evidence, at(60))
    assert (one.started_at, one.ended_at, one.outcome, one.ended_by) == (at(1), at(9), "cancelled", "page")


def test_the_row_and_the_stored_delivery_are_one() -> None:
    completed = row(Status.COMPLETED, "a", 1.2, finished_at=at(9))
    assert resolved([begun("a", 1)], completed) == [("a", 9.0, "completed")]
    assert resolved([], completed) == [("a", 9.0, "completed")], "short work reports no progress"


def test_a_repeated_result_is_a_delivery_of_its_own_that_changed_nothing() -> None:
    completed = row(Status.COMPLETED, "a", 1, finished_at=at(9))
    late = begun("b", 5.1, ended_at=at(20), outcome=DeliveryOutcome.COMPLETED, repeated=True)
    found = resolve_deliveries([begun("b", 5), late], completed, DeliveryEvidence(), at(60))
    assert [(one.worker_id, one.outcome, one.repeated) for one in found] == [
        ("a", "completed", False),
        ("b", "completed", True),
    ]


def test_a_dead_letter_ends_the_delivery_of_a_former_run() -> None:
    event = WorkerEvent(
        kind=EventKind.DEAD_LETTERED, worker_id="a", timestamp=at(7), run=1, partition=2, offset=50, file_id=1
    )
    retried = row(Status.PENDING, run=2)
    assert resolved([begun("a", 1)], retried, events=[event]) == [("a", 7.0, "failed")]
    assert resolved([begun("a", 1)], retried) == [("a", None, "redelivered")]
