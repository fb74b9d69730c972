"""The condition of a worker, derived from its events, and the effect of commands."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from filemill.domain.worker_commands import CommandState, WorkerCommand, WorkerCommandKind
from filemill.domain.worker_events import (
    DEAD_AFTER_SECONDS,
    PARTITIONS_MAX,
    STUCK_MARGIN_SECONDS,
    EventKind,
    Vitals,
    WorkerCondition,
    WorkerEvent,
    decode_event,
    worker_condition,
)
from filemill.errors import InvalidMessage
from filemill_workers.file_processor.reporter import LOG_MAX_CHARACTERS, TEXT_MAX_CHARACTERS

NOW = datetime(2026, 1, 4, 12, 0, tzinfo=UTC)


def _condition(
    seconds_ago: float = 0, kind: EventKind = EventKind.HEARTBEAT, vitals: Vitals | None = None, processing: float = 60
) -> WorkerCondition:
    said = WorkerEvent(kind=kind, worker_id="w", timestamp=NOW + timedelta(hours=6))
    return worker_condition(said, vitals, processing, seconds_ago)


def _encoded(**fields: object) -> bytes:
    return msgspec.json.encode({"kind": "heartbeat", "workerId": "w", "timestamp": NOW, **fields})


@pytest.mark.parametrize("name", ["partitions", "owned"])
def test_an_event_with_more_partitions_than_are_stored_is_invalid(name: str) -> None:
    decode_event(_encoded(**{name: list(range(PARTITIONS_MAX))}))
    with pytest.raises(InvalidMessage, match=name):
        decode_event(_encoded(**{name: list(range(PARTITIONS_MAX + 1))}))


def test_vitals_with_more_records_than_are_stored_are_invalid() -> None:
    records = [{"partition": number} for number in range(PARTITIONS_MAX + 1)]
    decode_event(_encoded(vitals={"oldestRecords": records[1:]}))
    with pytest.raises(InvalidMessage, match="oldestRecords"):
        decode_event(_encoded(vitals={"oldestRecords": records}))


@pytest.mark.parametrize("name", ["host", "version", "error", "trace", "cause", "stage", "memberId", "protocol"])
def test_an_event_with_an_endless_text_is_invalid(name: str) -> None:
    decode_event(_encoded(**{name: "x" * TEXT_MAX_CHARACTERS}))
    with pytest.raises(InvalidMessage, match=name):
        decode_event(_encoded(**{name: "x" * 100_000}))


def test_the_longest_log_that_a_worker_sends_is_valid() -> None:
    decode_event(_encoded(log="x" * LOG_MAX_CHARACTERS))
    with pytest.raises(InvalidMessage, match="log"):
        decode_event(_encoded(log="x" * 200_000))


def test_a_worker_without_records_in_progress_is_idle() -> None:
    assert _condition() is WorkerCondition.IDLE
    assert _condition(vitals=Vitals(in_flight=0, busy_seconds=999)) is WorkerCondition.IDLE


def test_a_worker_with_records_in_progress_is_busy() -> None:
    assert _condition(vitals=Vitals(in_flight=3, busy_seconds=59)) is WorkerCondition.BUSY


def test_a_worker_is_stuck_if_no_record_has_finished_for_too_long() -> None:
    limit = 60 + STUCK_MARGIN_SECONDS
    assert _condition(vitals=Vitals(in_flight=1, busy_seconds=limit)) is WorkerCondition.BUSY
    assert _condition(vitals=Vitals(in_flight=1, busy_seconds=limit + 0.1)) is WorkerCondition.STUCK
    assert _condition(vitals=Vitals(in_flight=1, busy_seconds=11), processing=0) is WorkerCondition.STUCK


def test_a_worker_without_heartbeats_is_dead() -> None:
    vitals = Vitals(in_flight=3, busy_seconds=999)
    assert _condition(DEAD_AFTER_SECONDS, vitals=vitals) is WorkerCondition.STUCK
    assert _condition(DEAD_AFTER_SECONDS + 0.1, vitals=vitals) is WorkerCondition.DEAD
    assert _condition(DEAD_AFTER_SECONDS + 0.1, kind=EventKind.STARTED) is WorkerCondition.DEAD


def test_a_worker_that_sent_its_last_event_is_stopped_not_dead() -> None:
    assert _condition(99_999, kind=EventKind.STOPPED) is WorkerCondition.STOPPED


def test_a_worker_whose_clock_is_ahead_is_not_dead() -> None:
    assert _condition(-30) is WorkerCondition.IDLE


# --- commands


def _told(
    order: WorkerCommandKind, *files: tuple[int, int], worker: str | None = None, seconds: float = 1
) -> WorkerCommand:
    return WorkerCommand(kind=order, timestamp=NOW + timedelta(seconds=seconds), worker_id=worker, files=list(files))


@pytest.fixture
def state() -> CommandState:
    return CommandState("w")


def test_cancelling_one_run_does_not_cancel_another(state: CommandState) -> None:
    assert state.apply(_told(WorkerCommandKind.CANCEL, (1, 1), (2, 3))) == [(1, 1), (2, 3)]
    assert state.is_cancelled(1, 1)
    assert state.is_cancelled(2, 3)
    assert not state.is_cancelled(1, 2)
    assert not state.is_cancelled(3, 1)


def test_a_record_without_a_run_belongs_to_the_first_run(state: CommandState) -> None:
    state.apply(_told(WorkerCommandKind.CANCEL, (1, 1), (2, 2)))
    assert state.is_cancelled(1, None)
    assert not state.is_cancelled(2, None)


def test_a_cancellation_from_before_the_start_applies_to_later_records(state: CommandState) -> None:
    state.apply(_told(WorkerCommandKind.CANCEL, (1, 1), seconds=-3600))
    assert state.is_cancelled(1, 1)


def test_a_repeated_cancellation_is_not_new(state: CommandState) -> None:
    state.apply(_told(WorkerCommandKind.CANCEL, (1, 1)))
    assert state.apply(_told(WorkerCommandKind.CANCEL, (1, 1), (2, 1))) == [(2, 1)]


def test_the_last_of_quiet_and_resume_applies(state: CommandState) -> None:
    seen = []
    for order in (WorkerCommandKind.QUIET, WorkerCommandKind.QUIET, WorkerCommandKind.RESUME, WorkerCommandKind.QUIET):
        assert state.apply(_told(order)) == []
        seen.append(state.quiet)
    assert seen == [True, True, False, True]


def test_commands_from_before_the_start_do_not_make_a_worker_quiet(state: CommandState) -> None:
    state.apply(_told(WorkerCommandKind.QUIET, seconds=3600), before_start=True)
    assert not state.quiet
    state.apply(_told(WorkerCommandKind.QUIET, seconds=-3600))
    assert state.quiet, "the sender's clock does not matter"


def test_commands_to_another_worker_are_ignored(state: CommandState) -> None:
    assert state.apply(_told(WorkerCommandKind.CANCEL, (1, 1), worker="other")) == []
    state.apply(_told(WorkerCommandKind.QUIET, worker="other"))
    assert not state.is_cancelled(1, 1)
    assert not state.quiet
    state.apply(_told(WorkerCommandKind.QUIET, worker="w"))
    assert state.quiet
