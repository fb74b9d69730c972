"""What workers say and are told, and what that makes of them."""

from datetime import UTC, datetime, timedelta

import pytest

from filemill.domain.worker_commands import Command, Order, Standing
from filemill.domain.worker_events import (
    DEAD_AFTER_SECONDS,
    STUCK_MARGIN_SECONDS,
    Condition,
    Kind,
    Vitals,
    WorkerEvent,
    condition,
)

NOW = datetime(2026, 1, 4, 12, 0, tzinfo=UTC)


def _condition(
    seconds_ago: float = 0, kind: Kind = Kind.HEARTBEAT, vitals: Vitals | None = None, processing: float = 60
) -> Condition:
    said = WorkerEvent(kind=kind, worker_id="w", timestamp=NOW + timedelta(hours=6))
    return condition(said, vitals, processing, seconds_ago)


def test_a_worker_that_holds_nothing_is_idle() -> None:
    assert _condition() is Condition.IDLE
    assert _condition(vitals=Vitals(in_flight=0, busy_seconds=999)) is Condition.IDLE


def test_a_worker_that_holds_records_is_busy() -> None:
    assert _condition(vitals=Vitals(in_flight=3, busy_seconds=59)) is Condition.BUSY


def test_a_worker_is_stuck_once_nothing_has_finished_for_longer_than_one_takes() -> None:
    limit = 60 + STUCK_MARGIN_SECONDS
    assert _condition(vitals=Vitals(in_flight=1, busy_seconds=limit)) is Condition.BUSY
    assert _condition(vitals=Vitals(in_flight=1, busy_seconds=limit + 0.1)) is Condition.STUCK
    assert _condition(vitals=Vitals(in_flight=1, busy_seconds=11), processing=0) is Condition.STUCK


def test_a_silent_worker_is_dead_whatever_it_last_held() -> None:
    vitals = Vitals(in_flight=3, busy_seconds=999)
    assert _condition(DEAD_AFTER_SECONDS, vitals=vitals) is Condition.STUCK
    assert _condition(DEAD_AFTER_SECONDS + 0.1, vitals=vitals) is Condition.DEAD
    assert _condition(DEAD_AFTER_SECONDS + 0.1, kind=Kind.STARTED) is Condition.DEAD


def test_a_worker_that_said_goodbye_is_stopped_not_dead() -> None:
    assert _condition(99_999, kind=Kind.STOPPED) is Condition.STOPPED


def test_a_clock_that_is_ahead_does_not_kill_a_worker() -> None:
    assert _condition(-30) is Condition.IDLE


# --- commands


def _told(order: Order, *files: tuple[int, int], worker: str | None = None, seconds: float = 1) -> Command:
    return Command(order=order, timestamp=NOW + timedelta(seconds=seconds), worker_id=worker, files=list(files))


@pytest.fixture
def standing() -> Standing:
    return Standing("w")


def test_a_cancelled_run_is_not_wanted_and_another_is(standing: Standing) -> None:
    assert standing.take(_told(Order.CANCEL, (1, 1), (2, 3))) == [(1, 1), (2, 3)]
    assert standing.cancelled(1, 1)
    assert standing.cancelled(2, 3)
    assert not standing.cancelled(1, 2)
    assert not standing.cancelled(3, 1)


def test_a_record_without_a_run_is_its_files_first(standing: Standing) -> None:
    standing.take(_told(Order.CANCEL, (1, 1), (2, 2)))
    assert standing.cancelled(1, None)
    assert not standing.cancelled(2, None)


def test_a_cancellation_from_before_the_start_counts_for_a_record_that_is_read_later(standing: Standing) -> None:
    standing.take(_told(Order.CANCEL, (1, 1), seconds=-3600))
    assert standing.cancelled(1, 1)


def test_a_repeated_cancellation_is_not_new(standing: Standing) -> None:
    standing.take(_told(Order.CANCEL, (1, 1)))
    assert standing.take(_told(Order.CANCEL, (1, 1), (2, 1))) == [(2, 1)]


def test_quiet_and_resume_follow_each_other(standing: Standing) -> None:
    seen = []
    for order in (Order.QUIET, Order.QUIET, Order.RESUME, Order.QUIET):
        assert standing.take(_told(order)) == []
        seen.append(standing.quiet)
    assert seen == [True, True, False, True]


def test_what_was_said_to_a_former_process_does_not_quiet_this_one(standing: Standing) -> None:
    standing.take(_told(Order.QUIET, seconds=3600), before_start=True)
    assert not standing.quiet
    standing.take(_told(Order.QUIET, seconds=-3600))
    assert standing.quiet, "the clock of who says it does not matter"


def test_what_is_said_to_another_worker_is_not_meant(standing: Standing) -> None:
    assert standing.take(_told(Order.CANCEL, (1, 1), worker="other")) == []
    standing.take(_told(Order.QUIET, worker="other"))
    assert not standing.cancelled(1, 1)
    assert not standing.quiet
    standing.take(_told(Order.QUIET, worker="w"))
    assert standing.quiet
