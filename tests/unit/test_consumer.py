"""The consumer's thread: what it takes, holds, commits and lets go of, turn by turn."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from filemill.adapters.memory.broker import RecordedCommit
from filemill.adapters.memory.record_source import MemoryRecordSource
from filemill.config.settings import load
from filemill.domain.messages import RUN_HEADER
from filemill.domain.offsets import Commit, CommitMetadata, decode_metadata, encode_metadata, topic_id_in
from filemill.domain.records import Record
from filemill.entrypoints.processor import linger_milliseconds
from filemill.errors import MemberExpelled
from filemill_workers.file_processor import consumer, dispatcher
from filemill_workers.file_processor.consumer import FileProcessor
from filemill_workers.file_processor.membership import QUIET
from tests.unit.consumer_harness import Scene, SpySource
from tests.unit.executor_harness import CREATE, TOPICS, bench, eventually, request


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(consumer, "COMMIT_SECONDS", 0.0)


@pytest.fixture
def scene() -> Scene:
    """Partition 0 assigned, nothing in it."""
    made = Scene()
    made.source.assign([0])
    made.turn()
    return made


# --- commits


def test_what_is_read_is_begun_and_not_committed(scene: Scene) -> None:
    scene.produce(3)
    scene.turn(3)
    assert scene.begun == [(0, 0), (0, 1), (0, 2)]
    assert scene.broker.commits == []


def test_the_commit_passes_a_marker_only_when_all_before_it_is_finished(scene: Scene) -> None:
    scene.produce(2)
    scene.broker.append_control_record(CREATE, 0)
    scene.turn(2)
    scene.workshop.finish(0, 1)
    scene.turn(2)
    assert scene.offsets() == [0]
    scene.workshop.finish(0, 0)
    scene.turn(2)
    assert scene.offsets() == [0, 3]
    scene.produce(1)
    scene.turn()
    assert scene.begun[-1] == (0, 3)


def test_what_waits_in_the_queue_is_not_passed(scene: Scene) -> None:
    scene.held = QUIET
    scene.produce(2)
    scene.turn(3)
    assert scene.offsets() == []
    scene.held = None
    scene.turn()
    assert scene.begun == [(0, 0), (0, 1)]


def test_only_what_is_contiguous_is_committed(scene: Scene) -> None:
    scene.produce(4)
    scene.turn()
    scene.workshop.finish(0, 1, 3)
    scene.turn(2)
    assert scene.offsets() == [0]
    scene.workshop.finish(0, 0)
    scene.turn(2)
    assert scene.offsets() == [0, 2]
    scene.workshop.finish(0, 2)
    scene.turn(2)
    assert scene.offsets() == [0, 2, 4]


def test_a_commit_says_who_and_in_which_epoch_and_what_is_finished_beyond(scene: Scene) -> None:
    scene.produce(4)
    scene.turn()
    scene.workshop.finish(0, 0, 2, 3)
    scene.turn()
    commit = scene.last().commit
    metadata, beyond = decode_metadata(commit.metadata, commit.offset)
    assert metadata is not None
    assert (metadata.worker, metadata.epoch) == ("worker-1", 1)
    assert (commit.offset, beyond) == (1, [2, 3])


def test_a_commit_is_not_repeated_while_nothing_finishes(scene: Scene) -> None:
    scene.produce(2)
    scene.turn()
    scene.workshop.finish(0, 0)
    scene.turn(10)
    assert scene.offsets() == [1]


def test_a_refused_commit_is_tried_again(scene: Scene) -> None:
    scene.produce(2)
    scene.turn()
    scene.workshop.finish(0, 0)
    scene.source.rejects_commits = True
    scene.turn(3)
    assert scene.offsets() == []
    scene.source.rejects_commits = False
    scene.turn(3)
    assert scene.offsets() == [1]


class _SlowCommits(SpySource):
    """Answers a commit when the test says so."""

    answers: list[tuple[Mapping[int, Commit], Callable[[Mapping[int, Commit]], None]]]

    def commit_async(self, commits: Mapping[int, Commit], on_done: Callable[[Mapping[int, Commit]], None]) -> None:
        self.answers.append((dict(commits), on_done))


def test_one_commit_at_a_time_is_under_way(scene: Scene) -> None:
    source = _SlowCommits(scene.broker, CREATE, scene.processor)
    source.calls, source.answers = [], []
    scene.processor._source = scene.source = source
    source.assign([0])
    scene.produce(3)
    scene.turn()
    for offset in range(3):
        scene.workshop.finish(0, offset)
        scene.turn(2)
    assert [commits[0].offset for commits, _ in source.answers] == [1]
    commits, on_done = source.answers[0]
    on_done(commits)
    scene.turn(2)
    assert [commits[0].offset for commits, _ in source.answers] == [1, 3]


def test_commits_wait_for_their_interval(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "COMMIT_SECONDS", 3600.0)
    scene.produce(3)
    scene.turn()
    scene.workshop.finish(0, 0, 1, 2)
    scene.turn(20)
    assert scene.offsets() == []


# --- pausing


@pytest.fixture
def short_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten records wait at most, in all and of each partition; five are read at a time."""
    monkeypatch.setattr(dispatcher, "QUEUED_RECORDS", 10)
    monkeypatch.setattr(dispatcher, "MIN_QUEUED_RECORDS", 10)
    monkeypatch.setattr(consumer, "READ_RECORDS", 5)


@pytest.mark.usefixtures("short_queues")
def test_reading_pauses_where_the_queue_is_full_and_resumes_at_half(scene: Scene) -> None:
    scene.produce(40)
    scene.turn(3)
    assert len(scene.begun) == 10
    assert scene.source.calls == []
    scene.turn(3)
    assert scene.source.calls == [("pause", [0])]
    scene.workshop.finish(0, 0, 1, 2, 3)
    scene.turn(3)
    assert len(scene.begun) == 14, "what waited begins as soon as there is a place"
    assert scene.source.calls == [("pause", [0])], "six wait: more than half"
    scene.workshop.finish(0, 4)
    scene.turn()
    assert scene.source.calls == [("pause", [0]), ("resume", [0])]
    scene.turn(5)
    assert len(scene.begun) == 15
    assert scene.source.calls[2:] == [("pause", [0])], "one pause, not one a message"


def test_never_more_is_in_flight_than_allowed(scene: Scene) -> None:
    scene.source.assign([1, 2])
    for partition in range(3):
        scene.produce(30, partition)
    finished = 0

    def all_begun() -> bool:
        nonlocal finished
        scene.turn()
        in_flight = len(scene.begun) - finished
        assert in_flight <= 10
        if in_flight == 10 or finished >= 80:
            for partition, offset in scene.begun[finished : finished + 5]:
                scene.workshop.finish(partition, offset)
                finished += 1
        return len(scene.begun) == 90

    eventually(all_begun)


def test_polling_goes_on_while_it_is_paused(scene: Scene) -> None:
    scene.produce(40)
    scene.turn(5)
    polls = scene.workshop.trusts
    scene.turn(5)
    assert scene.workshop.trusts == polls + 5


@pytest.mark.usefixtures("short_queues")
def test_an_assignment_while_paused_leaves_nobody_paused_for_ever(scene: Scene) -> None:
    """Between the two marks the client has the old partition paused and the new one not."""
    scene.produce(22)
    scene.turn(5)
    scene.workshop.finish(0, 0, 1)
    scene.turn()
    assert scene.source.paused == {0}
    scene.source.assign([1])
    scene.turn(2)
    scene.workshop.finish(0, *range(2, 12))
    scene.turn(3)
    assert scene.source.paused == set()
    scene.workshop.finish(0, *range(12, 22))
    scene.turn(3)
    assert len(scene.begun) == 22


@pytest.mark.usefixtures("short_queues")
def test_partitions_that_leave_make_room(scene: Scene) -> None:
    scene.source.assign([1])
    scene.produce(20, 0)
    scene.turn(5)
    scene.produce(5, 1)
    scene.turn()
    assert scene.source.paused == {0}
    assert (1, 4) not in scene.begun
    scene.source.lose([0])
    scene.turn(2)
    assert (1, 4) in scene.begun
    assert scene.source.paused == set()


def test_on_hold_nothing_new_is_taken_and_what_is_in_hand_goes_on(scene: Scene) -> None:
    scene.produce(2)
    scene.turn()
    scene.held = "quiet"
    scene.turn()
    scene.produce(5)
    scene.workshop.finish(0, 0, 1)
    scene.turn(5)
    assert len(scene.begun) == 2
    assert scene.offsets() == [2]
    scene.held = None
    scene.turn(3)
    assert len(scene.begun) == 7


def test_on_hold_for_a_server_something_is_taken_in_to_find_out_that_it_is_back(scene: Scene) -> None:
    """Only what is in progress probes: with nothing in progress and nothing taken, the hold would last for ever."""
    scene.held = "S3: away"
    scene.produce(30)
    scene.turn(5)
    assert 0 < len(scene.begun) <= 10
    taken = len(scene.begun)
    scene.turn(5)
    assert len(scene.begun) == taken, "while one is in progress, no more"


def test_quiet_means_quiet_though_nothing_is_in_hand(scene: Scene) -> None:
    scene.held = QUIET
    scene.turn()
    scene.produce(3)
    scene.turn(5)
    assert scene.begun == []
    assert scene.workshop.trusts > 5


# --- assignments


def test_a_successor_does_not_repeat_what_the_metadata_says_is_done(scene: Scene) -> None:
    metadata = encode_metadata("worker-0", 7, 2, [3, 5])
    scene.broker.commits.append(RecordedCommit(1, Commit(2, metadata, 1), owned=True))
    scene.produce(7, partition=1)
    scene.source.assign([1])
    scene.turn(2)
    assert [offset for partition, offset in scene.begun if partition == 1] == [2, 4, 6]
    scene.workshop.finish(1, 2, 4)
    scene.turn(2)
    assert scene.offsets(1)[-1] == 6


@pytest.mark.parametrize("metadata", ["", "NO_METADATA", "{", '{"x":' + "[" * 1500 + "]" * 1500 + "}"])
def test_foreign_metadata_is_no_obstacle(scene: Scene, metadata: str) -> None:
    scene.broker.commits.append(RecordedCommit(1, Commit(2, metadata, 1), owned=True))
    scene.produce(4, partition=1)
    scene.source.assign([1])
    scene.turn(2)
    assert scene.begun == [(1, 2), (1, 3)]


def test_each_assignment_is_a_new_epoch(scene: Scene) -> None:
    scene.produce(1)
    scene.turn()
    scene.source.lose([0])
    scene.source.assign([0])
    scene.turn()
    assert [epoch for _, epoch, _ in scene.workshop.begun] == [1, 2]


def test_what_finishes_in_an_epoch_that_ended_is_forgotten(scene: Scene) -> None:
    scene.produce(2)
    scene.turn()
    scene.source.lose([0])
    scene.source.assign([0])
    scene.turn()
    scene.workshop.finish(0, 0, 1, epoch=1)
    scene.turn(3)
    assert scene.broker.commits == [], "another passage of this record is still under way"
    scene.workshop.finish(0, 0, epoch=2)
    scene.turn(2)
    assert scene.offsets() == [1]
    metadata = decode_metadata(scene.last().commit.metadata, 1)[0]
    assert metadata == CommitMetadata("worker-1", 2, topic_id="file.create-0")


def test_lost_partitions_are_dropped_and_not_committed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "COMMIT_SECONDS", 3600.0)
    scene.processor._committed_at = time.monotonic()
    scene.produce(3)
    scene.turn()
    scene.workshop.finish(0, 0, 1)
    scene.turn()
    assert scene.processor._offsets[0].position == 2, "a commit would be due"
    scene.source.lose([0])
    scene.turn(5)
    monkeypatch.setattr(consumer, "COMMIT_SECONDS", 0.0)
    scene.turn(5)
    assert scene.broker.commits == []
    assert ({0: 1}, None) in scene.workshop.abandoned


def test_nothing_is_committed_for_a_partition_that_is_not_owned(scene: Scene) -> None:
    scene.source.assign([1])
    scene.produce(3, 0)
    scene.produce(3, 1)
    scene.turn(2)
    scene.workshop.finish(0, 0)
    scene.workshop.finish(1, 0)
    scene.turn()
    scene.source.lose([0])
    scene.workshop.finish(0, 1)
    scene.workshop.finish(1, 1)
    scene.turn(3)
    assert scene.offsets(0) == [1]
    assert scene.offsets(1) == [1, 2]
    assert all(each.owned for each in scene.broker.commits)


def test_a_revocation_commits_what_is_finished_before_it_returns(scene: Scene) -> None:
    scene.produce(3)
    scene.turn()
    scene.workshop.finish(0, 0, 2)
    scene.source.revoke([0])
    scene.turn()
    last = scene.last()
    assert last.owned
    assert (last.commit.offset, decode_metadata(last.commit.metadata, 1)[1]) == (1, [2])
    assert ({0: 1}, None) in scene.workshop.abandoned
    before = len(scene.broker.commits)
    scene.workshop.finish(0, 1, epoch=1)
    scene.turn(3)
    assert len(scene.broker.commits) == before


def test_a_revocation_touches_only_what_is_revoked(scene: Scene) -> None:
    scene.source.assign([1])
    scene.produce(2, 0)
    scene.produce(2, 1)
    scene.turn(2)
    scene.source.revoke([0])
    scene.turn()
    assert all(set(epochs) <= {0} for epochs, _ in scene.workshop.abandoned)
    scene.workshop.finish(1, 0, 1)
    scene.turn(2)
    assert scene.offsets(1)[-1] == 2


def test_a_revocation_waits_for_what_is_nearly_done_and_no_longer_than_it_may() -> None:
    scene = Scene(drain_seconds=0.3)
    scene.source.assign([0])
    scene.produce(2)
    scene.turn()
    threading.Timer(0.05, lambda: scene.workshop.finish(0, 0)).start()
    scene.source.revoke([0])
    began = time.monotonic()
    scene.turn()
    assert 0.29 <= time.monotonic() - began < 20
    assert scene.last().commit.offset == 1
    assert scene.workshop.abandoned[0] == ({0: 1}, 0.3), "first what would wait for longer than that"
    assert scene.workshop.trusts > 3, "in its callback the worker still owns the partition"


def test_a_revocation_ends_as_soon_as_all_is_done() -> None:
    scene = Scene(drain_seconds=60)
    scene.source.assign([0])
    scene.produce(2)
    scene.turn()
    threading.Timer(0.05, lambda: scene.workshop.finish(0, 0, 1)).start()
    scene.source.revoke([0])
    began = time.monotonic()
    scene.turn()
    assert time.monotonic() - began < 30
    assert scene.last().commit.offset == 2


def test_revoking_what_is_not_owned_is_harmless(scene: Scene) -> None:
    scene.processor.on_revoked([7])
    scene.processor.on_lost([8])
    scene.produce(1)
    scene.turn()
    assert scene.begun == [(0, 0)]


def test_records_read_before_a_revocation_of_the_same_poll_are_not_begun(scene: Scene) -> None:
    scene.processor._dispatcher.enqueue([Record(CREATE, 2, 0, request(1), [], 0)])
    scene.turn()
    assert scene.begun == []


# --- a topic that is deleted and created again


def _topic_ids(scene: Scene) -> list[str]:
    return [topic_id_in(each.commit.metadata) for each in scene.broker.commits]


def _recreated(scene: Scene, before: int, after: int) -> None:
    """All that was there is committed; the new topic has so many records."""
    scene.produce(before)
    scene.turn()
    scene.workshop.finish(0, *range(before))
    scene.turn(2)
    assert scene.offsets()[-1] == before
    scene.broker.recreate(CREATE, 3)
    scene.produce(after)


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_running_member_reads_a_recreated_topic_from_its_beginning(scene: Scene, after: int) -> None:
    _recreated(scene, 4, after)
    with pytest.raises(MemberExpelled, match="was deleted and recreated"):
        scene.turn()
    scene.join_again()
    scene.source.assign([0])
    scene.turn(2)
    assert scene.begun[4:] == [(0, offset) for offset in range(after)]
    scene.workshop.finish(0, *range(after))
    scene.turn(2)
    assert scene.offsets()[-1] == after
    assert (_topic_ids(scene)[0], _topic_ids(scene)[-1]) == ("file.create-0", "file.create-1")


def test_a_member_finishes_what_is_in_progress_before_it_leaves_a_former_topic(scene: Scene) -> None:
    scene.produce(4)
    scene.turn()
    scene.workshop.finish(0, 0, 1)
    scene.broker.recreate(CREATE, 3)
    with pytest.raises(MemberExpelled):
        scene.turn()
    assert scene.workshop.abandoned[-1] == ({0: 1}, None)
    assert (scene.offsets(), _topic_ids(scene)) == ([2], ["file.create-0"])


def test_a_commit_of_a_former_topic_is_not_taken_for_one_of_this_topic(scene: Scene) -> None:
    """Nor is what it says is finished beyond: a member that had not heard of the recreation made it."""
    scene.source.notices_recreation = False
    scene.produce(4)
    scene.turn()
    scene.broker.recreate(CREATE, 3)
    scene.produce(6)
    scene.workshop.finish(0, 0, 1, 3)
    scene.source.revoke([0])
    scene.turn()
    assert decode_metadata(scene.last().commit.metadata, 2)[1] == [3]
    other = Scene(name="worker-2", broker=scene.broker)
    other.source.assign([0])
    other.turn(2)
    assert other.begun == [(0, offset) for offset in range(6)]


def test_a_member_that_does_not_know_the_topics_id_reads_on_and_says_it_once_it_knows(scene: Scene) -> None:
    scene.produce(4)
    scene.turn()
    scene.workshop.finish(0, 0, 2)
    scene.source.revoke([0])
    scene.turn()
    scene.broker.outage = "Kafka is away"
    other = Scene(name="worker-2", broker=scene.broker)
    other.source.assign([0])
    other.turn(2)
    assert other.begun == [(0, 1), (0, 3)]
    other.workshop.finish(0, 1)
    other.turn(2)
    assert _topic_ids(scene)[-1] == "file.create-0", "the id of the commit that it went on from"
    scene.broker.outage = None
    scene.broker.recreate(CREATE, 3)
    with pytest.raises(MemberExpelled):
        other.turn()


@pytest.mark.parametrize("metadata", ["", encode_metadata("worker-0", 7, 2, [3])])
def test_a_commit_without_a_topics_id_is_taken_as_it_is(scene: Scene, metadata: str) -> None:
    """By a worker of an earlier version, or by a foreign one."""
    scene.broker.commits.append(RecordedCommit(1, Commit(2, metadata, 1), owned=True))
    scene.produce(5, 1)
    scene.source.assign([1])
    scene.turn(2)
    assert scene.begun == [(1, offset) for offset in (2, 3, 4) if not (metadata and offset == 3)]
    scene.workshop.finish(1, 2)
    scene.turn(2)
    assert _topic_ids(scene)[-1] == "file.create-0"


def test_a_member_joins_again_if_offsets_go_back(scene: Scene) -> None:
    """As when the client resets its position, before anything else says that the topic was recreated."""
    scene.source.notices_recreation = False
    _recreated(scene, 4, 2)
    with pytest.raises(MemberExpelled, match="partition 0: offset 0 was delivered again"):
        scene.turn(2)
    scene.join_again()
    scene.source.assign([0])
    scene.turn(2)
    assert scene.workshop.begun[-2:] == [(0, 2, 0), (0, 2, 1)]
    scene.workshop.finish(0, 0, 1, epoch=1)
    scene.turn(2)
    assert scene.offsets()[-1] == 4, "what finishes in the former epoch no longer counts"
    scene.workshop.finish(0, 0, 1)
    scene.turn(2)
    assert (scene.offsets()[-1], _topic_ids(scene)[-1]) == (2, "file.create-1")


def test_nothing_begins_of_a_batch_in_which_offsets_go_back(scene: Scene) -> None:
    scene.produce(3)
    scene.turn()
    again = [Record(CREATE, 0, offset, request(1), [], 0) for offset in range(2)]
    scene.processor._dispatcher.enqueue([Record(CREATE, 0, 3, request(1), [], 0), *again])
    with pytest.raises(MemberExpelled, match="partition 0: offset 0 was delivered again"):
        scene.turn()
    assert (0, 3) not in scene.begun


def test_an_answer_to_a_commit_of_an_ended_epoch_acknowledges_nothing(scene: Scene) -> None:
    source = _SlowCommits(scene.broker, CREATE, scene.processor)
    source.calls, source.answers = [], []
    scene.processor._source = scene.source = source
    source.assign([0])
    scene.produce(2)
    scene.turn()
    scene.workshop.finish(0, 0)
    scene.turn()
    source.lose([0])
    source.assign([0])
    scene.turn()
    scene.workshop.finish(0, 0)
    commits, on_done = source.answers[0]
    on_done(commits)
    scene.turn(2)
    assert [each[0].offset for each, _ in source.answers] == [1, 1], "the new epoch's own commit is still due"


def test_leaving_drains_commits_and_leaves_the_group() -> None:
    scene = Scene()
    scene.source.assign([0])
    scene.produce(2)
    thread = threading.Thread(target=scene.processor.run, args=(lambda _: scene.source,), daemon=True)
    thread.start()
    eventually(lambda: len(scene.begun) == 2)
    scene.workshop.finish(0, 0)
    scene.processor.stop()
    thread.join(20)
    assert scene.source.closed
    assert scene.last().commit.offset == 1
    assert scene.last().owned


# --- the loop and the workshop together


def test_a_topic_is_worked_off_and_committed_to_its_end() -> None:
    with bench() as it:
        processor = FileProcessor(it.workshop, worker_id="worker-1", concurrency=20, drain_seconds=1)
        source = MemoryRecordSource(it.broker, CREATE, processor)
        for number in range(300):
            it.broker.append(CREATE, number % 3, request(number + 1) if number % 50 else b"not json")
        source.assign([0, 1, 2])
        thread = threading.Thread(target=processor.run, args=(lambda _, source=source: source,), daemon=True)
        thread.start()
        eventually(lambda: all(it.broker.committed(partition)[0] == 100 for partition in range(3)))
        processor.stop()
        thread.join(20)
        assert len(it.results()) == 294
        assert len(it.broker.records(TOPICS.dead_letters)) == 6
        assert len(it.store.puts) == 294, "each once"


def test_partitions_that_wander_between_two_workers_lose_and_repeat_nothing_that_was_committed() -> None:
    with bench() as first, bench() as second:
        second.broker, second.store = first.broker, first.store
        second.publisher._broker = first.broker
        second.workshop._context = first.workshop._context.__class__(
            **{
                name: getattr(second.workshop._context, name)
                for name in second.workshop._context.__struct_fields__
                if name != "store"
            },
            store=first.store,
        )
        for number in range(150):
            first.broker.append(CREATE, 0, request(number + 1))
        workers = []
        for it in (first, second):
            processor = FileProcessor(it.workshop, worker_id="w", concurrency=7, drain_seconds=1)
            source = MemoryRecordSource(first.broker, CREATE, processor)
            thread = threading.Thread(target=processor.run, args=(lambda _, source=source: source,), daemon=True)
            thread.start()
            workers.append((processor, source, thread))
        owner = 0
        workers[owner][1].assign([0])
        while first.broker.committed(0)[0] < 150:
            before = first.broker.committed(0)[0]
            eventually(lambda before=before: first.broker.committed(0)[0] > before)  # type: ignore[misc]
            source = workers[owner][1]
            source.revoke([0])
            eventually(lambda source=source: not source.owned)  # type: ignore[misc]
            owner = 1 - owner
            workers[owner][1].assign([0])
        for processor, _, thread in workers:
            processor.stop()
            thread.join(20)
        assert len(first.results()) == 150
        assert len(first.store.puts) == 150, "drained and committed at every hand-over: nothing twice"
        assert all(each.owned for each in first.broker.commits)
        committed = [each.commit.offset for each in first.broker.commits]
        assert committed == sorted(committed)


@pytest.mark.parametrize("how", ["lost", "revoked", "cancelled"])
def test_a_worker_that_has_nothing_left_when_an_outage_ends_goes_on_after_it(how: str) -> None:
    with bench(gates=True) as it:
        processor = FileProcessor(
            it.workshop,
            worker_id="worker-1",
            concurrency=20,
            drain_seconds=0,
            backpressure_reason=lambda: next((gate.reason for gate in it.gates.values() if gate.reason), None),
        )
        source = MemoryRecordSource(it.broker, CREATE, processor)
        it.store.outage = "S3 is away"
        for number in range(10):
            it.broker.append(CREATE, 0, request(number + 1), [(RUN_HEADER, b"1")])
        source.assign([0])
        thread = threading.Thread(target=processor.run, args=(lambda _, source=source: source,), daemon=True)
        thread.start()
        try:
            eventually(lambda: it.gates["S3"].reason)
            eventually(lambda: it.workshop.in_progress({0: 1}) == 10)
            if how == "lost":
                source.lose([0])
            elif how == "revoked":
                source.revoke([0])
            else:
                it.workshop.cancel([(number + 1, 1) for number in range(10)])
            eventually(lambda: not it.workshop.in_progress({0: 1}))
            source.assign([1])
            eventually(lambda: source.owned[-1:] == [1])
            it.store.outage = None
            it.broker.append(CREATE, 1, request(99))
            eventually(lambda: it.broker.committed(1)[0] == 1, "it is on hold for ever")
        finally:
            processor.stop()
            thread.join(20)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 25),
        ({"ordering": "partition"}, 5),
        ({"concurrency": 3}, 5),
        ({"concurrency": 100}, 25),
        ({"partition_concurrency": 1}, 5),
        ({"partition_concurrency": 20, "topic_partitions": 6}, 25),
        ({"group_protocol": "share"}, 5),
    ],
)
def test_results_wait_for_each_other_only_where_many_may_be_in_progress(given: dict[str, Any], expected: int) -> None:
    assert linger_milliseconds(load(**given)) == expected
