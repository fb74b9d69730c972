"""The audit of commits and executions, on constructed histories."""

from datetime import UTC, datetime

import msgspec

from filemill.domain.offsets import RecordedReset, StoredCommit, encode_metadata
from filemill.domain.topic_records import RequestRecord, StoredEvent
from filemill.domain.worker_events import EventKind, WorkerEvent
from filemill.verification.commits import CommitAudit, audit, combine
from filemill.verification.findings import FindingCode
from filemill.verification.topic_history import (
    NEVER,
    Execution,
    OwnershipPeriod,
    RecordPosition,
    TopicHistory,
    deduplicate,
)


def commit(
    offset: int, at: float, worker: str = "a", epoch: int = 1, beyond: tuple[int, ...] = (), topic_id: str = ""
) -> StoredCommit:
    return StoredCommit(0, offset, encode_metadata(worker, epoch, offset, beyond, topic_id), at)


def owner(at: float, worker: str = "a", epoch: int = 1, until: float = float("inf")) -> OwnershipPeriod:
    return OwnershipPeriod(at, worker, epoch, 0, until, reported_at=at)


def execution(offset: int, at: float, worker: str = "a", began: float | None = None) -> Execution:
    return Execution(
        partition=0,
        offset=offset,
        file_id=offset + 1,
        run=1,
        worker=worker,
        status="completed",
        attempt=1,
        started_at=datetime.fromtimestamp(at - 1 if began is None else began, UTC),
        upload_ms=None,
        at=at,
    )


def run_audit(
    commits: list[StoredCommit],
    finished: list[float],
    owners: list[OwnershipPeriod],
    executions: list[Execution] | None = None,
    resets: list[RecordedReset] | None = None,
) -> CommitAudit:
    history = TopicHistory(
        requests=[RequestRecord(offset + 1, 1, None, 0, offset, 0.0) for offset in range(len(finished))],
        ended_without_result={RecordPosition(0, 0, offset): at for offset, at in enumerate(finished) if at != NEVER},
        executions=executions or [],
        resets=resets or [],
    )
    return audit(commits, {0: len(finished)}, history, owners)


def findings(result: CommitAudit) -> set[str]:
    return set(result.findings)


def test_commits_of_finished_records_are_ok() -> None:
    result = run_audit([commit(1, 11, beyond=(2,)), commit(3, 13)], [10, 12, 11], [owner(1)])
    assert result.ok
    assert result.commits == 2


def test_a_commit_beyond_an_unfinished_record_is_found() -> None:
    assert findings(run_audit([commit(2, 11), commit(2, 13)], [10, 12], [owner(1)])) == {"commit-passed-unfinished"}


def test_a_commit_with_wrong_metadata_is_found() -> None:
    assert findings(run_audit([commit(1, 11, beyond=(2,))], [10, 12, 12], [owner(1)])) == {"commit-claims-unfinished"}


def test_a_commit_beyond_the_end_is_found() -> None:
    assert findings(run_audit([commit(3, 11)], [10], [owner(1)])) == {"commit-beyond-end"}


def test_a_commit_of_a_former_owner_is_found() -> None:
    owners = [owner(1), owner(10.5, "b")]
    assert run_audit([commit(1, 10.4)], [10], owners).ok
    assert findings(run_audit([commit(1, 11)], [10], owners)) == {"commit-by-non-owner"}


def test_a_commit_in_a_former_epoch_of_the_same_worker_is_found() -> None:
    assert findings(run_audit([commit(1, 11)], [10], [owner(1), owner(10.5, epoch=2)])) == {"commit-by-non-owner"}


def test_a_commit_may_reach_the_broker_before_the_event_of_its_assignment() -> None:
    late = msgspec.structs.replace(owner(12.5, "b", 2), reported_at=10.5)
    assert run_audit([commit(1, 11, "b", 2)], [10], [owner(1), late]).ok
    for other in (
        msgspec.structs.replace(late, reported_at=11.5),  # assigned after the commit by its own clock
        msgspec.structs.replace(late, epoch=3),
        msgspec.structs.replace(late, worker="c"),
        msgspec.structs.replace(late, at=60.0),  # too late for a delayed event
    ):
        assert findings(run_audit([commit(1, 11, "b", 2)], [10], [owner(1), other])) == {"commit-by-non-owner"}


def test_a_commit_after_the_revocation_is_found() -> None:
    owners = [owner(1, until=10.5)]
    assert run_audit([commit(1, 10.4)], [10], owners).ok
    assert findings(run_audit([commit(1, 12)], [10], owners)) == {"commit-by-non-owner"}


def test_a_commit_without_metadata_is_found() -> None:
    assert findings(run_audit([StoredCommit(0, 1, "", 11)], [10], [owner(1)])) == {"commit-unsigned"}


def test_an_uncommitted_record_may_be_reprocessed() -> None:
    owners = [owner(1), owner(20, "b")]
    result = run_audit([commit(1, 11)], [10, 12], owners, [execution(0, 10), execution(1, 12), execution(1, 22, "b")])
    assert result.ok
    assert (result.executions, result.executed_again) == (3, 1)


def test_a_committed_record_must_not_be_reprocessed() -> None:
    owners = [owner(1), owner(20, "b")]
    commits = [commit(1, 13, beyond=(2,))]
    for offset in (0, 2):
        again = [execution(offset, 10), execution(offset, 22, "b")]
        assert findings(run_audit(commits, [10, 99, 12], owners, again)) == {"executed-though-committed"}


def test_a_worker_must_not_process_a_record_twice_in_one_assignment() -> None:
    twice = [execution(0, 10), execution(0, 12)]
    assert findings(run_audit([], [10], [owner(1)], twice)) == {"executed-twice-in-one-assignment"}
    assert run_audit([], [10], [owner(1), owner(10.5, epoch=2)], twice).ok


def test_a_processing_belongs_to_the_assignment_in_which_it_started() -> None:
    owners = [owner(1), owner(20, epoch=2)]
    late = [execution(0, 21, began=12), execution(0, 23, began=22)]
    assert run_audit([], [21], owners, late).ok


def test_a_repeated_progress_record_is_one_processing() -> None:
    """The broker stored the first record, and its acknowledgement was lost."""
    made = execution(0, 10)
    later = msgspec.structs.replace(made, at=40.0)
    other = msgspec.structs.replace(later, published_at=datetime.fromtimestamp(39, UTC))
    assert deduplicate([made, later, other]) == [made, other]


MANUAL_COMMIT = StoredCommit(0, 3, "", 20.1)


def test_a_recorded_reset_may_skip_records_without_metadata() -> None:
    reset = RecordedReset(0, 1, 3, 20.0)
    commits = [commit(1, 11), MANUAL_COMMIT, commit(4, 32, "b")]
    owners, finished = [owner(1), owner(30, "b")], [10, NEVER, NEVER, 31]
    result = run_audit(commits, finished, owners, resets=[reset])
    assert result.ok
    assert (result.commits, result.resets) == (3, 1)
    assert findings(run_audit(commits, finished, owners)) == {"commit-passed-unfinished", "commit-unsigned"}


def test_records_after_a_reset_backwards_may_be_reprocessed() -> None:
    commits = [commit(2, 13), StoredCommit(0, 1, "", 20.1)]
    owners = [owner(1), owner(30, "b")]
    done = [execution(0, 10), execution(1, 12)]
    resets = [RecordedReset(0, 2, 1, 20.0)]
    assert run_audit(commits, [10, 12], owners, [*done, execution(1, 32, "b")], resets).ok
    again = run_audit(commits, [10, 12], owners, [*done, execution(0, 32, "b")], resets)
    assert findings(again) == {"executed-though-committed"}


def test_a_reset_explains_only_one_commit() -> None:
    finished, owners = [10.0] * 3, [owner(1)]
    for resets in (
        [RecordedReset(0, 0, 2, 20.0)],
        [RecordedReset(1, 0, 3, 20.0)],
        [RecordedReset(0, 0, 3, 20.2)],
        [RecordedReset(0, 0, 3, -50.0)],
    ):
        assert findings(run_audit([MANUAL_COMMIT], finished, owners, resets=resets)) == {"commit-unsigned"}, resets
    twice = [MANUAL_COMMIT, StoredCommit(0, 3, "", 20.2)]
    assert findings(run_audit(twice, finished, owners, resets=[RecordedReset(0, 0, 3, 20.0)])) == {"commit-unsigned"}


def test_a_reset_does_not_explain_records_beyond_it() -> None:
    resets = [RecordedReset(0, 0, 1, 20.0)]
    early = [StoredCommit(0, 1, "", 20.1), commit(2, 32, "b")]
    assert findings(run_audit(early, [NEVER, NEVER], [owner(30, "b")], resets=resets)) == {"commit-passed-unfinished"}


def requests(*offsets: int, first_id: int = 1, at: float = 5.0) -> list[RequestRecord]:
    return [RequestRecord(first_id + offset, 1, None, 0, offset, at) for offset in offsets]


def ended(finished: dict[int, float], generation: int = 0) -> dict[RecordPosition, float]:
    return {RecordPosition(generation, 0, offset): at for offset, at in finished.items()}


def test_an_offset_without_a_record_needs_no_result() -> None:
    """Control records of transactions at 1 and, at the end, at 3."""
    asked = requests(0, 2)
    history = TopicHistory(requests=asked, ended_without_result=ended({0: 10, 2: 12}))
    assert audit([commit(2, 11), commit(4, 13)], {0: 4}, history, [owner(1)]).ok
    assert findings(audit([commit(4, 11)], {0: 4}, history, [owner(1)])) == {"commit-passed-unfinished"}
    assert findings(audit([commit(5, 13)], {0: 4}, history, [owner(1)])) == {"commit-beyond-end"}
    unfinished = TopicHistory(requests=asked, ended_without_result=ended({0: 10}))
    assert audit([commit(2, 11)], {0: 4}, unfinished, [owner(1)]).ok
    assert findings(audit([commit(3, 20)], {0: 4}, unfinished, [owner(1)])) == {"commit-passed-unfinished"}
    claimed = audit([commit(0, 11, beyond=(2,))], {0: 4}, unfinished, [owner(1)])
    assert findings(claimed) == {"commit-claims-unfinished"}


def test_a_partition_may_begin_at_any_offset() -> None:
    history = TopicHistory(requests=requests(100, 101), ended_without_result=ended({40: 10, 100: 12}))
    assert audit([commit(41, 11), commit(101, 13)], {0: 102}, history, [owner(1)]).ok
    assert findings(audit([commit(41, 9)], {0: 102}, history, [owner(1)])) == {"commit-passed-unfinished"}
    assert findings(audit([commit(102, 13)], {0: 102}, history, [owner(1)])) == {"commit-passed-unfinished"}


def test_a_commit_may_skip_removed_records_only_after_their_removal() -> None:
    gone = ended({1: 20, 2: 20})
    history = TopicHistory(requests=requests(3), ended_without_result=ended({0: 10, 3: 22}), removed=gone)
    assert audit([commit(1, 11), commit(3, 21), commit(4, 23)], {0: 4}, history, [owner(1)]).ok
    assert findings(audit([commit(3, 19)], {0: 4}, history, [owner(1)])) == {"commit-passed-unfinished"}
    held = msgspec.structs.replace(history, ended_without_result=ended({0: 10, 1: 30, 2: 12, 3: 22}))
    assert audit([commit(3, 21)], {0: 4}, held, [owner(1)]).ok, "a record that a worker had read may still finish later"
    assert findings(audit([commit(2, 13)], {0: 4}, held, [owner(1)])) == {"commit-passed-unfinished"}


def recreated(executions: list[Execution], asked: list[RequestRecord]) -> TopicHistory:
    return TopicHistory(recreations=[20.0], executions=executions, requests=asked)


def test_commits_before_a_recreation_belong_to_the_former_topic() -> None:
    old = [execution(0, 10), execution(1, 11), execution(2, 12)]
    new = requests(0, 1, first_id=11, at=21.0)
    made = [msgspec.structs.replace(execution(0, 30), file_id=11)]
    history = recreated([*old, *made], new)
    early = [commit(3, 13)]  # beyond the new topic's end
    assert audit([*early, commit(1, 31)], {0: 2}, history, [owner(1)]).ok
    assert findings(audit([*early, commit(2, 31)], {0: 2}, history, [owner(1)])) == {"commit-passed-unfinished"}
    assert findings(audit([*early, commit(3, 31)], {0: 2}, history, [owner(1)])) == {"commit-beyond-end"}
    too_early = audit([commit(3, 11.5), commit(1, 31)], {0: 2}, history, [owner(1)])
    assert findings(too_early) == {"commit-passed-unfinished"}


def test_a_late_result_belongs_to_the_former_topic() -> None:
    late = recreated([execution(0, 25)], requests(0, first_id=11, at=21.0))
    assert late.executed_positions() == [RecordPosition(0, 0, 0)]
    assert findings(audit([commit(1, 26)], {0: 1}, late, [owner(1)])) == {"commit-passed-unfinished"}
    same = recreated([execution(0, 25)], requests(0, at=21.0))
    assert same.executed_positions() == [RecordPosition(1, 0, 0)]
    assert audit([commit(1, 26)], {0: 1}, same, [owner(1)]).ok


def test_a_record_of_the_new_topic_is_not_a_repetition() -> None:
    asked = requests(0, first_id=11, at=21.0)
    made = [execution(0, 10), msgspec.structs.replace(execution(0, 30), file_id=11)]
    history = recreated(made, asked)
    result = audit([commit(1, 11)], {0: 1}, history, [owner(1)])
    assert result.ok
    assert (result.executions, result.executed_again) == (2, 0)
    covered = audit([commit(1, 11), commit(1, 25)], {0: 1}, history, [owner(1), owner(26, "a", 2)])
    assert "executed-though-committed" in findings(covered)


def test_a_commit_belongs_to_the_topic_that_it_names_at_any_moment() -> None:
    """A worker that has not heard of the recreation commits what it finished of the former topic."""
    asked = requests(0, 1, 2, first_id=11, at=21.0)
    made = [execution(0, 10), *(msgspec.structs.replace(execution(n, 30 + n), file_id=11 + n) for n in range(3))]
    history = msgspec.structs.replace(recreated(made, asked), topic_ids=["old", "new"])
    owners = [owner(1), owner(26, "a", 2)]
    late = commit(1, 25, topic_id="old")
    own = commit(3, 33, epoch=2, topic_id="new")
    assert audit([late, own], {0: 3}, history, owners).ok
    assert audit([commit(4, 25, topic_id="old"), own], {0: 3}, history, owners).ok, "the old topic was longer"
    for topic_id in ("new", "", "unknown"):
        found_then = findings(audit([commit(1, 25, topic_id=topic_id), own], {0: 3}, history, owners))
        assert found_then == {"commit-passed-unfinished", "executed-though-committed"}, topic_id


def test_the_commit_of_a_reset_names_its_topic_and_no_worker() -> None:
    reset = RecordedReset(0, 0, 1, 20.0)
    made = commit(1, 20.1, worker="", epoch=0, topic_id="t")
    result = run_audit([made], [NEVER, NEVER], [owner(1)], resets=[reset])
    assert (result.ok, result.resets) == (True, 1)
    assert findings(run_audit([made], [10, NEVER], [owner(1)])) == {"commit-unsigned"}


def test_dead_letters_and_resets_belong_to_the_topic_of_their_time() -> None:
    history = TopicHistory(recreations=[20.0], ended_without_result=ended({0: 10}), requests=requests(0, 1, at=21.0))
    assert findings(audit([commit(1, 30)], {0: 2}, history, [owner(1)])) == {"commit-passed-unfinished"}
    reset = RecordedReset(0, 0, 2, 30.0)
    passed = msgspec.structs.replace(history, resets=[reset])
    assert audit([StoredCommit(0, 2, "", 30.1)], {0: 2}, passed, [owner(1)]).ok


def test_results_on_a_removed_topic_are_not_missed() -> None:
    history = TopicHistory(requests=[*requests(0), *requests(1, at=25.0)], results_since=20.0)
    assert audit([commit(1, 11)], {0: 2}, history, [owner(1)]).ok
    assert findings(audit([commit(2, 31)], {0: 2}, history, [owner(1)])) == {"commit-passed-unfinished"}


def test_the_audits_of_queues_are_added_up() -> None:
    first, second = CommitAudit(commits=2, executions=3, executed_again=1), CommitAudit(commits=1, resets=1)
    for number in range(25):
        first.add_finding(FindingCode.COMMIT_UNSIGNED, f"first {number}")
    second.add_finding(FindingCode.COMMIT_UNSIGNED, "second")
    second.add_finding(FindingCode.EXECUTED_TWICE, "again")
    total = combine([first, second])
    assert (total.commits, total.resets, total.executions, total.executed_again) == (3, 1, 3, 1)
    assert {code: finding.count for code, finding in total.findings.items()} == {
        FindingCode.COMMIT_UNSIGNED: 26,
        FindingCode.EXECUTED_TWICE: 1,
    }
    assert combine([]).ok


def test_an_assignment_that_a_worker_reports_after_its_loss_is_none() -> None:
    """A suspended worker wakes, and reports the assignment that it missed just before it learns of its loss."""

    def event(at: float, worker: str, kind: EventKind, epoch: int) -> StoredEvent:
        moment = datetime.fromtimestamp(at, UTC)
        return StoredEvent(
            at, WorkerEvent(kind=kind, worker_id=worker, timestamp=moment, epoch=epoch, partitions=[0], owned=[])
        )

    other = event(10, "b", EventKind.ASSIGNED, 3)
    late = [event(20, "a", EventKind.ASSIGNED, 2), event(20.01, "a", EventKind.LOST, 2)]
    assert [(one.worker, one.epoch) for one in TopicHistory(events=[other, *late]).ownerships()] == [("b", 3)]
    owned = TopicHistory(events=[other, late[0]]).ownerships()
    assert [(one.worker, one.epoch) for one in owned] == [("b", 3), ("a", 2)], "no loss was reported"
    slowly = [late[0], event(22, "a", EventKind.LOST, 2)]
    assert len(TopicHistory(events=[other, *slowly]).ownerships()) == 2, "it may have committed in between"
    assert len(TopicHistory(events=late).ownerships()) == 1, "nobody else owned it"
    jobs = msgspec.structs.replace(other, event=msgspec.structs.replace(other.event, queue="jobs"))
    assert TopicHistory(events=[jobs]).ownerships() == [], "it is of another queue"
    assert len(TopicHistory(queue="jobs", events=[jobs]).ownerships()) == 1
