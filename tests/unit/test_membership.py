"""Membership confirmation after a pause of the process, and the memberships after an expulsion."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from filemill.adapters.memory.record_source import MemoryRecordSource
from filemill.domain.offsets import Commit
from filemill.domain.records import Record
from filemill.errors import MemberExpelled, Unavailable
from filemill.ports import RebalanceListener
from tests.unit.consumer_harness import OPTIONS, ConsumerHarness
from tests.unit.executor_harness import CREATE, wait_until


@pytest.fixture
def harness() -> ConsumerHarness:
    """Two records of partition 0 are in progress."""
    return with_two_records()


def with_two_records(**options: Any) -> ConsumerHarness:
    made = ConsumerHarness(msgspec.structs.replace(OPTIONS, **options))
    made.source.assign([0])
    made.produce(2)
    made.step(2)
    return made


def pause(harness: ConsumerHarness) -> int:
    """Pause the process until its membership is uncertain; returns how often it was confirmed so far."""
    harness.pause_process()
    return harness.executor.confirmations


def test_polls_alone_do_not_confirm_the_membership_after_a_pause(harness: ConsumerHarness) -> None:
    harness.source.rejects_commits = True
    before = pause(harness)
    harness.step(10)
    assert harness.executor.confirmations == before


def test_an_accepted_commit_confirms_the_membership_although_nothing_is_finished(harness: ConsumerHarness) -> None:
    before = pause(harness)
    harness.step(3)
    assert harness.offsets() == [0], "a commit without a new result"
    assert harness.executor.confirmations > before
    harness.step(3)
    assert harness.offsets() == [0], "one commit"


def test_lost_partitions_need_no_confirmation(harness: ConsumerHarness) -> None:
    harness.source.rejects_commits = True
    before = pause(harness)
    harness.step()
    harness.source.lose([0])
    harness.step()
    assert harness.executor.confirmations > before


def test_the_result_of_a_commit_from_before_the_pause_confirms_nothing(harness: ConsumerHarness) -> None:
    answers: list[tuple[Mapping[int, Commit], Callable[[Mapping[int, Commit]], None]]] = []
    harness.source.commit_async = lambda commits, on_done: answers.append((commits, on_done))  # type: ignore[method-assign]
    harness.executor.finish(0, 0)
    harness.step()
    before = pause(harness)
    harness.step()
    (commits, on_done) = answers[0]
    on_done(commits)
    harness.step()
    assert harness.executor.confirmations == before
    assert len(answers) == 2, "another commit"
    commits, on_done = answers[1]
    on_done(commits)
    assert harness.executor.confirmations == before + 1


def test_a_revocation_after_a_pause_does_not_drain() -> None:
    harness = with_two_records(drain_seconds=60.0)
    pause(harness)
    harness.source.revoke([0])
    harness.step()
    assert harness.executor.abandoned[-1] == ({0: 1}, None)
    assert harness.executor.in_progress({0: 1}) == 0


# --- memberships


class _Expelling(MemoryRecordSource):
    """Raises `error` in `read`, if it is set."""

    error: Exception | None = None

    def read(self, limit: int, seconds: float) -> list[Record]:
        if self.error is not None:
            raise self.error
        return super().read(limit, seconds)


def test_an_expelled_member_joins_again_and_its_records_are_abandoned() -> None:
    harness = ConsumerHarness()
    harness.produce(3)
    members: list[_Expelling] = []

    def join(listener: RebalanceListener) -> _Expelling:
        members.append(_Expelling(harness.broker, CREATE, listener))
        members[-1].assign([0])
        if len(members) in {2, 3}:
            members[-1].error = MemberExpelled("the former self is not out of the group yet")
        return members[-1]

    thread = threading.Thread(target=harness.processor.run, args=(join,), daemon=True)
    thread.start()
    wait_until(lambda: len(harness.started) == 3)
    members[0].error = MemberExpelled("fenced")
    wait_until(lambda: len(harness.started) == 6, "the fourth membership reads them again")
    assert [member.closed for member in members] == [True, True, True, False]
    assert all(not epochs or epochs == {0: 1} for epochs, _ in harness.executor.abandoned)
    harness.executor.finish(0, 0, epoch=1)
    harness.executor.finish(0, 0, 1)
    wait_until(lambda: harness.offsets()[-1:] == [2])
    harness.processor.stop()
    thread.join(20)
    assert harness.last_commit().owned


def test_a_worker_that_cannot_join_ends_with_the_reason() -> None:
    harness = ConsumerHarness()

    def join(listener: RebalanceListener) -> MemoryRecordSource:
        raise Unavailable("another process is in the group under this one's name")

    with pytest.raises(Unavailable, match="under this one's name"):
        harness.processor.run(join)
