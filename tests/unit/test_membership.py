"""What a worker believes after it was stopped for longer than its session, and when its client gives up."""

import threading
from collections.abc import Callable, Mapping

import pytest

from filemill.adapters.memory.record_source import MemoryRecordSource
from filemill.domain.offsets import Commit
from filemill.domain.records import Record
from filemill.domain.retry import RetryPolicy
from filemill.errors import MemberExpelled, Unavailable
from filemill.ports import RebalanceListener
from filemill_workers.file_processor import consumer, membership
from tests.unit.consumer_harness import Scene
from tests.unit.executor_harness import CREATE, eventually

LONG_AGO = -1.0


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(consumer, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(membership, "REJOIN_POLICY", RetryPolicy(base_seconds=0.001, cap_seconds=0.002))


@pytest.fixture
def scene() -> Scene:
    """Two records of partition 0 in progress."""
    made = Scene()
    made.source.assign([0])
    made.produce(2)
    made.turn(2)
    return made


def sleep(scene: Scene) -> int:
    """The process was stopped for longer than it may be trusted; returns how often it was trusted so far."""
    scene.processor._membership_confirmed_at -= scene.processor._membership_ttl_seconds + 1
    return scene.workshop.trusts


def test_polls_alone_do_not_make_a_worker_that_was_stopped_trust_its_assignment(scene: Scene) -> None:
    scene.source.rejects_commits = True
    before = sleep(scene)
    scene.turn(10)
    assert scene.workshop.trusts == before


def test_the_broker_is_asked_by_a_commit_though_nothing_is_finished_and_its_answer_is_believed(scene: Scene) -> None:
    before = sleep(scene)
    scene.turn(3)
    assert scene.offsets() == [0], "a commit of what is known"
    assert scene.workshop.trusts > before
    scene.turn(3)
    assert scene.offsets() == [0], "asked once"


def test_what_is_lost_needs_no_answer(scene: Scene) -> None:
    scene.source.rejects_commits = True
    before = sleep(scene)
    scene.turn()
    scene.source.lose([0])
    scene.turn()
    assert scene.workshop.trusts > before


def test_an_answer_to_a_commit_from_before_the_sleep_proves_nothing(scene: Scene) -> None:
    answers: list[tuple[Mapping[int, Commit], Callable[[Mapping[int, Commit]], None]]] = []
    scene.source.commit_async = lambda commits, on_done: answers.append((commits, on_done))  # type: ignore[method-assign]
    scene.workshop.finish(0, 0)
    scene.turn()
    before = sleep(scene)
    scene.turn()
    (commits, on_done) = answers[0]
    on_done(commits)
    scene.turn()
    assert scene.workshop.trusts == before
    assert len(answers) == 2, "it asks anew"
    commits, on_done = answers[1]
    on_done(commits)
    assert scene.workshop.trusts == before + 1


def test_a_revocation_after_a_sleep_drains_nothing() -> None:
    scene = Scene(drain_seconds=60)
    scene.source.assign([0])
    scene.produce(2)
    scene.turn(2)
    sleep(scene)
    scene.source.revoke([0])
    scene.turn()
    assert scene.workshop.abandoned[-1] == ({0: 1}, None)
    assert scene.workshop.in_progress({0: 1}) == 0


# --- memberships


class _Expelling(MemoryRecordSource):
    """Says that it is over, when told to."""

    over: Exception | None = None

    def read(self, limit: int, seconds: float) -> list[Record]:
        if self.over is not None:
            raise self.over
        return super().read(limit, seconds)


def test_a_membership_that_the_client_gave_up_is_followed_by_another_one_and_what_it_held_is_forgotten() -> None:
    scene = Scene()
    scene.produce(3)
    members: list[_Expelling] = []

    def join(listener: RebalanceListener) -> _Expelling:
        members.append(_Expelling(scene.broker, CREATE, listener))
        members[-1].assign([0])
        if len(members) in {2, 3}:
            members[-1].over = MemberExpelled("the former self is not out of the group yet")
        return members[-1]

    thread = threading.Thread(target=scene.processor.run, args=(join,), daemon=True)
    thread.start()
    eventually(lambda: len(scene.begun) == 3)
    members[0].over = MemberExpelled("fenced")
    eventually(lambda: len(scene.begun) == 6, "the fourth membership reads them again")
    assert [member.closed for member in members] == [True, True, True, False]
    assert all(not epochs or epochs == {0: 1} for epochs, _ in scene.workshop.abandoned)
    scene.workshop.finish(0, 0, epoch=1)
    scene.workshop.finish(0, 0, 1)
    eventually(lambda: scene.offsets()[-1:] == [2])
    scene.processor.stop()
    thread.join(20)
    assert scene.last().owned


def test_where_nobody_may_join_the_worker_ends_with_the_reason() -> None:
    scene = Scene()

    def join(listener: RebalanceListener) -> MemoryRecordSource:
        raise Unavailable("another process is in the group under this one's name")

    with pytest.raises(Unavailable, match="under this one's name"):
        scene.processor.run(join)
