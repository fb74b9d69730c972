"""Measures and invariants, on constructed histories."""

from datetime import UTC, datetime

import pandas as pd
import pytest

from filemill.domain.offsets import RecordedReset
from filemill.domain.topic_records import RequestRecord, StoredEvent
from filemill.domain.worker_events import EventKind, Vitals, WorkerEvent
from filemill.lab import frames, measures
from filemill.lab.invariants import InvariantReport, Observations, check_invariants
from filemill.lab.measures import least_moves
from filemill.runtime.journal import JournalEntry
from filemill.verification.report import VerificationReport
from filemill.verification.topic_history import Execution, TopicHistory


def event(at: float, worker: str, kind: EventKind, *partitions: int, vitals: Vitals | None = None) -> StoredEvent:
    moment = datetime.fromtimestamp(at, UTC)
    said = WorkerEvent(
        kind=kind, worker_id=worker, timestamp=moment, epoch=1, partitions=list(partitions), vitals=vitals
    )
    return StoredEvent(at, said)


def result(partition: int, offset: int, at: float, worker: str = "a") -> Execution:
    return Execution(
        partition=partition,
        offset=offset,
        file_id=1 + offset,
        run=1,
        worker=worker,
        status="completed",
        attempt=1,
        started_at=datetime.fromtimestamp(at - 0.5 + 3600, UTC),  # the worker's clock is ahead
        published_at=datetime.fromtimestamp(at + 3600, UTC),
        upload_ms=1.0,
        at=at,
    )


def killed_at_20() -> TopicHistory:
    """Worker a has partitions 0 and 1 from 1 on; it is killed at 20, b takes 1 at 26 and finishes something at 27."""
    return TopicHistory(
        requests=[RequestRecord(offset + 1, 1, None, 1, offset, 10.0 + offset) for offset in range(3)],
        executions=[result(1, 0, 12), result(1, 1, 19), result(1, 1, 27, "b"), result(1, 2, 28, "b")],
        events=[
            event(1, "a", EventKind.ASSIGNED, 0, 1),
            event(2, "b", EventKind.ASSIGNED, 2),
            event(18, "a", EventKind.HEARTBEAT, vitals=Vitals(in_flight=40)),
            event(19, "b", EventKind.HEARTBEAT, vitals=Vitals(in_flight=2)),
            event(26, "b", EventKind.ASSIGNED, 0, 1),
        ],
    )


KILL = JournalEntry(kind="fault", name="processor killed", code="processor-killed", target="a", began=20.0, ended=20.0)


def test_recovery_counts_from_the_kill_to_the_first_result_in_the_new_assignment() -> None:
    (row,) = measures.recovery(killed_at_20(), [KILL]).to_dict("records")
    assert (row["worker"], row["partition"]) == ("a", 1)
    assert (row["detection_seconds"], row["recovery_seconds"]) == (6, 7)


def test_catch_up_lasts_until_all_records_before_the_kill_have_results() -> None:
    history = killed_at_20()
    (row,) = measures.catch_up_times(history, [KILL]).to_dict("records")
    assert row == {"worker": "a", "caught_up_seconds": 8, "alone": True}
    history.requests.append(RequestRecord(9, 1, None, 2, 0, 20.5))  # came after it
    assert len(measures.catch_up_times(history, [KILL])) == 1
    history.requests.append(RequestRecord(10, 1, None, 2, 1, 19.5))  # and one that never ended
    assert measures.catch_up_times(history, [KILL]).empty


def test_a_kill_is_alone_unless_another_fault_began_before_the_recovery() -> None:
    other = JournalEntry(kind="fault", name="s3 killed", began=22.0, ended=23.0)
    assert measures.recovery(killed_at_20(), [KILL])["alone"].tolist() == [True]
    assert measures.recovery(killed_at_20(), [KILL, other])["alone"].tolist() == [False]


def test_without_kills_there_is_no_recovery() -> None:
    found = measures.recovery(killed_at_20(), [])
    assert found[found["alone"]]["recovery_seconds"].empty


def test_a_pause_is_the_time_between_the_last_result_of_the_old_owner_and_the_first_of_the_new() -> None:
    (row,) = measures.pauses(killed_at_20()).to_dict("records")
    assert (row["partition"], row["from"], row["to"], row["pause_seconds"]) == (1, "a", "b", 8)


def test_moves_are_compared_with_the_least_number() -> None:
    assert measures.moves(killed_at_20(), 10, 30) == {"moved": 2, "least": 2, "survivors_revoked": 0}


@pytest.mark.parametrize(
    ("before", "members", "least"),
    [
        ({0: "a", 1: "a", 2: "a"}, {"a", "b"}, 1),
        ({0: "a", 1: "a", 2: "b"}, {"a", "b"}, 0),
        ({0: "a", 1: "a", 2: "b"}, {"b"}, 2),
        ({0: "a", 1: "a", 2: "b"}, {"a", "b", "c", "d"}, 1),
        (dict.fromkeys(range(6), "a"), {"a", "b", "c"}, 4),
        ({0: "a"}, set(), 0),
    ],
)
def test_the_least_number_of_moves(before: dict[int, str], members: set[str], least: int) -> None:
    assert least_moves(before, members) == least


def test_records_in_flight_at_a_moment_are_those_of_the_last_heartbeats() -> None:
    history = killed_at_20()
    assert measures.in_flight_at(history, 20) == 42
    assert measures.in_flight_at(history, 24.5) == 2  # who is silent for longer than a session is not counted


def test_partitions_of_a_killed_worker_have_no_owner_until_the_next_assignment() -> None:
    frame = frames.assignments(killed_at_20(), 30.0, measures.kills([KILL]))
    of_a = frame[(frame["worker"] == "a") & (frame["partition"] == 1)]
    assert [moment.timestamp() for moment in of_a["ended"]] == [20.0]
    assert [moment.timestamp() for moment in frame[frame["worker"] == "b"]["ended"]] == [30.0] * 3


def test_repetitions_and_their_seconds() -> None:
    assert measures.repetitions(killed_at_20()) == {"executions": 4, "executed_again": 1, "rework_seconds": 0.5}


def test_a_repeated_execution_is_marked() -> None:
    frame = frames.executions(killed_at_20())
    assert frame["again"].tolist() == [False, False, True, False]
    assert measures.throughput(frame)["files_per_second"].sum() == 3


def test_fairness_is_one_for_equal_shares() -> None:
    even = pd.DataFrame({"worker": ["a", "b"], "partition": [0, 0]})
    assert measures.fairness(even) == {"fairness_workers": 1.0, "fairness_partitions": 1.0}


def files(*moments: tuple[float, float]) -> pd.DataFrame:
    """A row a file that completed: when it was asked for, and when its row said so."""
    frame = pd.DataFrame(moments, columns=["intended_at", "updated_at"], dtype=float)
    for column in frame:
        frame[column] = pd.to_datetime(frame[column], unit="s", utc=True)
    return frame.assign(id=[10 + 2 * index for index in range(len(frame))], status="completed")


def test_repetitions_are_numbered_in_order() -> None:
    assert measures.with_repetition(files(*[(1, 2)] * 5), 2)["repeat"].tolist() == [0, 0, 1, 1, 2]


def test_the_rate_of_a_repetition_is_that_of_its_own_first_results() -> None:
    done = [result(0, offset, at) for offset, at in enumerate([10.0, 10.5, 11.0, 90.0, 90.25, 90.5])]
    frame = frames.executions(TopicHistory(executions=[*done, result(0, 2, 95.0)]))
    found = measures.rates(frame, 3)
    assert found["files_per_second"].tolist() == [2.0, 4.0]


def test_the_spread_has_median_minimum_maximum_and_count() -> None:
    frame = pd.DataFrame({"kind": ["a", "a", "a", "b"], "seconds": [3.0, 1.0, 8.0, 5.0]})
    found = measures.spread(frame, ["kind"], ["seconds"])
    assert found.index.tolist() == ["a", "b"]
    assert found.to_numpy().tolist() == [[3.0, 1.0, 8.0, 3], [5.0, 5.0, 5.0, 1]]


def test_gaps_are_classified_by_partition_and_phase() -> None:
    history = killed_at_20()
    history.executions += [result(2, offset, at, "b") for offset, at in enumerate([19.5, 20.5, 29.0, 29.5, 40.0])]
    found = measures.gaps(history, begin=20, settled=28, end=30)
    assert found.to_dict("split")["data"] == [
        [1, "moved", "rebalance", 8.0],
        [1, "moved", "rebalance", 1.0],
        [2, "stayed", "rebalance", 1.0],
        [2, "stayed", "rebalance", 8.5],
        [2, "stayed", "steady", 0.5],
    ]


def test_catching_up_ends_when_all_earlier_requests_have_ended() -> None:
    fault = JournalEntry(kind="fault", name="s3 killed", began=20.0, ended=23.0)
    assert measures.seconds_to_catch_up(files((10, 11), (22, 26.5), (24, 40)), fault) == 3.5
    assert measures.seconds_to_catch_up(files((10, 11), (24, 40)), fault) == 0


def test_a_record_that_a_reset_skipped_is_no_stall() -> None:
    history = killed_at_20()
    waiting = [RequestRecord(9 + offset, 1, None, 0, offset, 12.0) for offset in range(2)]
    history.requests = waiting
    history.executions.append(result(0, 0, 13))
    assert {check.number for check in check(history, until=90.0).checks if check.ok is False} == {"9"}
    history.resets = [RecordedReset(0, 1, 2, 15.0)]
    assert check(history, until=90.0).ok


def check(history: TopicHistory, *faults: JournalEntry, until: float = 30.0) -> InvariantReport:
    return check_invariants(
        Observations(
            report=VerificationReport(),
            audit=None,
            history=history,
            status_regressions=[],
            faults=faults,
            stall_seconds=5,
            until=until,
        )
    )


def stalls(report: InvariantReport) -> bool:
    return {check.number: check.ok for check in report.checks}["9"] is False


def test_lag_without_results_violates_an_invariant_unless_a_fault_covers_it() -> None:
    history = TopicHistory(requests=[RequestRecord(1, 1, None, 0, 0, 10.0)], executions=[result(0, 0, 18)])
    assert stalls(check(history))
    outage = JournalEntry(kind="fault", name="kafka killed", began=11.0, ended=14.0)
    assert not stalls(check(history, outage))


def test_an_idle_partition_is_no_stall_but_an_unfinished_record_is() -> None:
    done = [RequestRecord(1, 1, None, 0, 0, 10.0), RequestRecord(2, 1, None, 0, 1, 50.0)]
    assert not stalls(check(TopicHistory(requests=done, executions=[result(0, 0, 11), result(0, 1, 52)]), until=99))
    assert stalls(check(TopicHistory(requests=done, executions=[result(0, 0, 11)]), until=99))


def test_an_open_breaker_excuses_a_stall() -> None:
    history = TopicHistory(
        requests=[RequestRecord(1, 1, None, 0, 0, 10.0)],
        executions=[result(0, 0, 18)],
        events=[event(11, "a", EventKind.BREAKER_OPENED), event(16, "a", EventKind.BREAKER_CLOSED)],
    )
    assert not stalls(check(history))


def test_without_an_audit_its_invariants_are_not_observed() -> None:
    report = check(TopicHistory())
    assert report.ok
    assert [check.number for check in report.checks if check.ok is None] == ["4", "6", "7"]
