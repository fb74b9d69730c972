"""The consumer's thread: dispatching, pausing, committing and assignments, step by step."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from filemill.adapters.memory.broker import RecordedCommit
from filemill.adapters.memory.record_source import MemoryRecordSource
from filemill.config.settings import load
from filemill.domain.messages import RUN_HEADER
from filemill.domain.offsets import Commit, CommitMetadata, decode_metadata, encode_metadata, topic_id_in
from filemill.domain.records import Record
from filemill.entrypoints.processor import result_batching_seconds
from filemill.errors import MemberExpelled
from filemill_workers.file_processor.consumer import ConsumerOptions, FileProcessor
from filemill_workers.file_processor.dispatcher import QueueLimits
from filemill_workers.file_processor.membership import QUIET
from tests.unit.consumer_harness import OPTIONS, ConsumerHarness, RecordingSource
from tests.unit.executor_harness import (
    CREATE,
    TOPICS,
    ControlledStore,
    ExecutorHarness,
    request,
    running_executor,
    wait_until,
)


@pytest.fixture
def harness() -> ConsumerHarness:
    """Partition 0 is assigned and empty."""
    return assigned()


def assigned(source: type[RecordingSource] = RecordingSource, **options: Any) -> ConsumerHarness:
    harness = ConsumerHarness(msgspec.structs.replace(OPTIONS, **options), source=source)
    harness.source.assign([0])
    harness.step()
    return harness


# --- commits


def test_started_records_are_not_committed(harness: ConsumerHarness) -> None:
    harness.produce(3)
    harness.step(3)
    assert harness.started == [(0, 0), (0, 1), (0, 2)]
    assert harness.broker.commits == []


def test_the_commit_passes_a_control_record_when_all_records_before_it_are_finished(harness: ConsumerHarness) -> None:
    harness.produce(2)
    harness.broker.append_control_record(CREATE, 0)
    harness.step(2)
    harness.executor.finish(0, 1)
    harness.step(2)
    assert harness.offsets() == [0]
    harness.executor.finish(0, 0)
    harness.step(2)
    assert harness.offsets() == [0, 3]
    harness.produce(1)
    harness.step()
    assert harness.started[-1] == (0, 3)


def test_the_commit_does_not_pass_queued_records(harness: ConsumerHarness) -> None:
    harness.backpressure = QUIET
    harness.produce(2)
    harness.step(3)
    assert harness.offsets() == []
    harness.backpressure = None
    harness.step()
    assert harness.started == [(0, 0), (0, 1)]


def test_only_contiguous_finished_offsets_are_committed(harness: ConsumerHarness) -> None:
    harness.produce(4)
    harness.step()
    harness.executor.finish(0, 1, 3)
    harness.step(2)
    assert harness.offsets() == [0]
    harness.executor.finish(0, 0)
    harness.step(2)
    assert harness.offsets() == [0, 2]
    harness.executor.finish(0, 2)
    harness.step(2)
    assert harness.offsets() == [0, 2, 4]


def test_a_commit_contains_the_worker_the_epoch_and_the_finished_offsets_above_it(harness: ConsumerHarness) -> None:
    harness.produce(4)
    harness.step()
    harness.executor.finish(0, 0, 2, 3)
    harness.step()
    commit = harness.last_commit().commit
    metadata, beyond = decode_metadata(commit.metadata, commit.offset)
    assert metadata is not None
    assert (metadata.worker, metadata.epoch) == ("worker-1", 1)
    assert (commit.offset, beyond) == (1, [2, 3])


def test_a_commit_is_not_repeated_while_nothing_finishes(harness: ConsumerHarness) -> None:
    harness.produce(2)
    harness.step()
    harness.executor.finish(0, 0)
    harness.step(10)
    assert harness.offsets() == [1]


def test_a_rejected_commit_is_retried(harness: ConsumerHarness) -> None:
    harness.produce(2)
    harness.step()
    harness.executor.finish(0, 0)
    harness.source.rejects_commits = True
    harness.step(3)
    assert harness.offsets() == []
    harness.source.rejects_commits = False
    harness.step(3)
    assert harness.offsets() == [1]


class _SlowCommits(RecordingSource):
    """The test calls the callbacks of commits."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.answers: list[tuple[Mapping[int, Commit], Callable[[Mapping[int, Commit]], None]]] = []

    def commit_async(self, commits: Mapping[int, Commit], on_done: Callable[[Mapping[int, Commit]], None]) -> None:
        self.answers.append((dict(commits), on_done))


def test_one_commit_is_pending_at_a_time() -> None:
    harness = assigned(_SlowCommits)
    source = harness.source
    assert isinstance(source, _SlowCommits)
    harness.produce(3)
    harness.step()
    for offset in range(3):
        harness.executor.finish(0, offset)
        harness.step(2)
    assert [commits[0].offset for commits, _ in source.answers] == [1]
    commits, on_done = source.answers[0]
    on_done(commits)
    harness.step(2)
    assert [commits[0].offset for commits, _ in source.answers] == [1, 3]


def test_commits_wait_for_their_interval() -> None:
    harness = assigned(commit_interval_seconds=2.0)
    harness.clock.advance(2.0)
    harness.step()
    harness.produce(3)
    harness.step()
    harness.executor.finish(0, 0, 1, 2)
    harness.clock.advance(1.9)
    harness.step(20)
    assert harness.offsets() == []
    harness.clock.advance(0.1)
    harness.step()
    assert harness.offsets() == [3]


# --- pausing


@pytest.fixture
def short_queues() -> ConsumerHarness:
    """At most ten records wait, in all and of each partition; five are read at a time."""
    return assigned(queue_limits=QueueLimits(records=10, min_records=10), read_records=5)


def test_a_partition_is_paused_when_its_queue_is_full_and_resumed_at_half(short_queues: ConsumerHarness) -> None:
    harness = short_queues
    harness.produce(40)
    harness.step(3)
    assert len(harness.started) == 10
    assert harness.source.calls == []
    harness.step(3)
    assert harness.source.calls == [("pause", [0])]
    harness.executor.finish(0, 0, 1, 2, 3)
    harness.step(3)
    assert len(harness.started) == 14, "queued records start when others finish"
    assert harness.source.calls == [("pause", [0])], "six wait: more than half"
    harness.executor.finish(0, 4)
    harness.step()
    assert harness.source.calls == [("pause", [0]), ("resume", [0])]
    harness.step(5)
    assert len(harness.started) == 15
    assert harness.source.calls[2:] == [("pause", [0])], "one pause, not one a message"


def test_records_in_progress_never_exceed_the_concurrency(harness: ConsumerHarness) -> None:
    harness.source.assign([1, 2])
    for partition in range(3):
        harness.produce(30, partition)
    finished = 0

    def all_begun() -> bool:
        nonlocal finished
        harness.step()
        in_flight = len(harness.started) - finished
        assert in_flight <= 10
        if in_flight == 10 or finished >= 80:
            for partition, offset in harness.started[finished : finished + 5]:
                harness.executor.finish(partition, offset)
                finished += 1
        return len(harness.started) == 90

    wait_until(all_begun)


def test_polling_continues_while_partitions_are_paused(harness: ConsumerHarness) -> None:
    harness.produce(40)
    harness.step(5)
    polls = harness.executor.confirmations
    harness.step(5)
    assert harness.executor.confirmations == polls + 5


def test_an_assignment_while_paused_leaves_no_partition_paused(short_queues: ConsumerHarness) -> None:
    """Below the resume level the old partition is paused and the new one is not."""
    harness = short_queues
    harness.produce(22)
    harness.step(5)
    harness.executor.finish(0, 0, 1)
    harness.step()
    assert harness.source.paused == {0}
    harness.source.assign([1])
    harness.step(2)
    harness.executor.finish(0, *range(2, 12))
    harness.step(3)
    assert harness.source.paused == set()
    harness.executor.finish(0, *range(12, 22))
    harness.step(3)
    assert len(harness.started) == 22


def test_lost_partitions_free_their_share_of_the_queue(short_queues: ConsumerHarness) -> None:
    harness = short_queues
    harness.source.assign([1])
    harness.produce(20, 0)
    harness.step(5)
    harness.produce(5, 1)
    harness.step()
    assert harness.source.paused == {0}
    assert (1, 4) not in harness.started
    harness.source.lose([0])
    harness.step(2)
    assert (1, 4) in harness.started
    assert harness.source.paused == set()


def test_under_backpressure_nothing_starts_and_records_in_progress_finish(harness: ConsumerHarness) -> None:
    harness.produce(2)
    harness.step()
    harness.backpressure = "quiet"
    harness.step()
    harness.produce(5)
    harness.executor.finish(0, 0, 1)
    harness.step(5)
    assert len(harness.started) == 2
    assert harness.offsets() == [2]
    harness.backpressure = None
    harness.step(3)
    assert len(harness.started) == 7


def test_an_idle_worker_starts_some_records_to_probe_an_unreachable_server(harness: ConsumerHarness) -> None:
    """Only records in progress probe the server: without any, backpressure would never end."""
    harness.backpressure = "S3: unreachable"
    harness.produce(30)
    harness.step(5)
    assert 0 < len(harness.started) <= 10
    taken = len(harness.started)
    harness.step(5)
    assert len(harness.started) == taken, "no more while one is in progress"


def test_a_quiet_worker_starts_nothing_when_idle(harness: ConsumerHarness) -> None:
    harness.backpressure = QUIET
    harness.step()
    harness.produce(3)
    harness.step(5)
    assert harness.started == []
    assert harness.executor.confirmations > 5


# --- assignments


def test_the_next_owner_skips_offsets_that_the_metadata_marks_as_finished(harness: ConsumerHarness) -> None:
    metadata = encode_metadata("worker-0", 7, 2, [3, 5])
    harness.broker.commits.append(RecordedCommit(1, Commit(2, metadata, 1), owned=True))
    harness.produce(7, partition=1)
    harness.source.assign([1])
    harness.step(2)
    assert [offset for partition, offset in harness.started if partition == 1] == [2, 4, 6]
    harness.executor.finish(1, 2, 4)
    harness.step(2)
    assert harness.offsets(1)[-1] == 6


@pytest.mark.parametrize("metadata", ["", "NO_METADATA", "{", '{"x":' + "[" * 1500 + "]" * 1500 + "}"])
def test_foreign_commit_metadata_is_ignored(harness: ConsumerHarness, metadata: str) -> None:
    harness.broker.commits.append(RecordedCommit(1, Commit(2, metadata, 1), owned=True))
    harness.produce(4, partition=1)
    harness.source.assign([1])
    harness.step(2)
    assert harness.started == [(1, 2), (1, 3)]


def test_each_assignment_begins_a_new_epoch(harness: ConsumerHarness) -> None:
    harness.produce(1)
    harness.step()
    harness.source.lose([0])
    harness.source.assign([0])
    harness.step()
    assert [epoch for _, epoch, _ in harness.executor.started] == [1, 2]


def test_records_that_finish_after_their_epoch_are_ignored(harness: ConsumerHarness) -> None:
    harness.produce(2)
    harness.step()
    harness.source.lose([0])
    harness.source.assign([0])
    harness.step()
    harness.executor.finish(0, 0, 1, epoch=1)
    harness.step(3)
    assert harness.broker.commits == [], "the record is in progress again"
    harness.executor.finish(0, 0, epoch=2)
    harness.step(2)
    assert harness.offsets() == [1]
    metadata = decode_metadata(harness.last_commit().commit.metadata, 1)[0]
    assert metadata == CommitMetadata("worker-1", 2, topic_id="file.create-0")


def test_lost_partitions_are_abandoned_and_not_committed() -> None:
    harness = assigned(commit_interval_seconds=2.0)
    harness.produce(3)
    harness.step()
    harness.executor.finish(0, 0, 1)
    harness.step()
    assert harness.processor.in_flight == 1, "a commit is due after the interval"
    harness.source.lose([0])
    harness.step(5)
    harness.clock.advance(2.0)
    harness.step(5)
    assert harness.broker.commits == []
    assert ({0: 1}, None) in harness.executor.abandoned


def test_nothing_is_committed_for_a_partition_that_is_not_owned(harness: ConsumerHarness) -> None:
    harness.source.assign([1])
    harness.produce(3, 0)
    harness.produce(3, 1)
    harness.step(2)
    harness.executor.finish(0, 0)
    harness.executor.finish(1, 0)
    harness.step()
    harness.source.lose([0])
    harness.executor.finish(0, 1)
    harness.executor.finish(1, 1)
    harness.step(3)
    assert harness.offsets(0) == [1]
    assert harness.offsets(1) == [1, 2]
    assert all(each.owned for each in harness.broker.commits)


def test_a_revocation_commits_finished_records_before_it_returns(harness: ConsumerHarness) -> None:
    harness.produce(3)
    harness.step()
    harness.executor.finish(0, 0, 2)
    harness.source.revoke([0])
    harness.step()
    last = harness.last_commit()
    assert last.owned
    assert (last.commit.offset, decode_metadata(last.commit.metadata, 1)[1]) == (1, [2])
    assert ({0: 1}, None) in harness.executor.abandoned
    before = len(harness.broker.commits)
    harness.executor.finish(0, 1, epoch=1)
    harness.step(3)
    assert len(harness.broker.commits) == before


def test_a_revocation_affects_only_the_revoked_partitions(harness: ConsumerHarness) -> None:
    harness.source.assign([1])
    harness.produce(2, 0)
    harness.produce(2, 1)
    harness.step(2)
    harness.source.revoke([0])
    harness.step()
    assert all(set(epochs) <= {0} for epochs, _ in harness.executor.abandoned)
    harness.executor.finish(1, 0, 1)
    harness.step(2)
    assert harness.offsets(1)[-1] == 2


def test_a_revocation_waits_for_records_in_progress_for_the_drain_time() -> None:
    harness = assigned(drain_seconds=0.75)
    harness.produce(2)
    harness.step()
    started_at = harness.clock.now

    def drain() -> None:
        harness.clock.advance(0.25)
        if harness.clock.now == started_at + 0.25:
            harness.executor.finish(0, 0)

    harness.executor.on_drain = drain
    confirmations = harness.executor.confirmations
    harness.source.revoke([0])
    harness.step()
    assert harness.clock.now == started_at + 0.75
    assert harness.last_commit().commit.offset == 1
    assert harness.executor.abandoned[0] == ({0: 1}, 0.75), "records that would wait for longer are abandoned first"
    assert harness.executor.confirmations >= confirmations + 2, "in its callback the worker still owns the partition"


def test_a_revocation_ends_when_all_records_are_finished() -> None:
    harness = assigned(drain_seconds=60)
    harness.produce(2)
    harness.step()

    def drain() -> None:
        if harness.executor.working[0, 1]:
            harness.executor.finish(0, 0, 1)

    harness.executor.on_drain = drain
    harness.source.revoke([0])
    harness.step()
    assert harness.last_commit().commit.offset == 2


def test_revoking_a_partition_that_is_not_owned_has_no_effect(harness: ConsumerHarness) -> None:
    harness.processor.on_revoked([7])
    harness.processor.on_lost([8])
    harness.produce(1)
    harness.step()
    assert harness.started == [(0, 0)]


def test_records_of_partitions_that_are_not_assigned_are_dropped(harness: ConsumerHarness) -> None:
    harness.source.injected = [Record(CREATE, 2, 0, request(1), [], 0)]
    harness.step()
    assert harness.started == []


# --- a recreated topic


def _topic_ids(harness: ConsumerHarness) -> list[str]:
    return [topic_id_in(each.commit.metadata) for each in harness.broker.commits]


def _recreated(harness: ConsumerHarness, before: int, after: int) -> None:
    """Commit every record of the topic, then recreate it with `after` records."""
    harness.produce(before)
    harness.step()
    harness.executor.finish(0, *range(before))
    harness.step(2)
    assert harness.offsets()[-1] == before
    harness.broker.recreate(CREATE, 3)
    harness.produce(after)


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_running_member_reads_a_recreated_topic_from_its_beginning(harness: ConsumerHarness, after: int) -> None:
    _recreated(harness, 4, after)
    with pytest.raises(MemberExpelled, match="was deleted and recreated"):
        harness.step()
    harness.rejoin()
    harness.source.assign([0])
    harness.step(2)
    assert harness.started[4:] == [(0, offset) for offset in range(after)]
    harness.executor.finish(0, *range(after))
    harness.step(2)
    assert harness.offsets()[-1] == after
    assert (_topic_ids(harness)[0], _topic_ids(harness)[-1]) == ("file.create-0", "file.create-1")


def test_a_member_commits_finished_records_before_it_leaves_a_former_topic(harness: ConsumerHarness) -> None:
    harness.produce(4)
    harness.step()
    harness.executor.finish(0, 0, 1)
    harness.broker.recreate(CREATE, 3)
    with pytest.raises(MemberExpelled):
        harness.step()
    assert harness.executor.abandoned[-1] == ({0: 1}, None)
    assert (harness.offsets(), _topic_ids(harness)) == ([2], ["file.create-0"])


def test_a_commit_of_a_former_topic_is_ignored(harness: ConsumerHarness) -> None:
    """With the finished offsets in its metadata. It was made by a member that had not noticed the recreation."""
    harness.source.notices_recreation = False
    harness.produce(4)
    harness.step()
    harness.broker.recreate(CREATE, 3)
    harness.produce(6)
    harness.executor.finish(0, 0, 1, 3)
    harness.source.revoke([0])
    harness.step()
    assert decode_metadata(harness.last_commit().commit.metadata, 2)[1] == [3]
    other = ConsumerHarness(name="worker-2", broker=harness.broker)
    other.source.assign([0])
    other.step(2)
    assert other.started == [(0, offset) for offset in range(6)]


def test_a_member_without_the_topic_id_continues_and_checks_it_later(
    harness: ConsumerHarness,
) -> None:
    harness.produce(4)
    harness.step()
    harness.executor.finish(0, 0, 2)
    harness.source.revoke([0])
    harness.step()
    harness.broker.outage = "Kafka is unreachable"
    other = ConsumerHarness(name="worker-2", broker=harness.broker)
    other.source.assign([0])
    other.step(2)
    assert other.started == [(0, 1), (0, 3)]
    other.executor.finish(0, 1)
    other.step(2)
    assert _topic_ids(harness)[-1] == "file.create-0", "the id in the commit at which it continued"
    harness.broker.outage = None
    harness.broker.recreate(CREATE, 3)
    with pytest.raises(MemberExpelled):
        other.step()


@pytest.mark.parametrize("metadata", ["", encode_metadata("worker-0", 7, 2, [3])])
def test_a_commit_without_a_topic_id_is_accepted(harness: ConsumerHarness, metadata: str) -> None:
    """It was made by an earlier version or by a foreign worker."""
    harness.broker.commits.append(RecordedCommit(1, Commit(2, metadata, 1), owned=True))
    harness.produce(5, 1)
    harness.source.assign([1])
    harness.step(2)
    assert harness.started == [(1, offset) for offset in (2, 3, 4) if not (metadata and offset == 3)]
    harness.executor.finish(1, 2)
    harness.step(2)
    assert _topic_ids(harness)[-1] == "file.create-0"


def test_a_member_rejoins_if_offsets_go_back(harness: ConsumerHarness) -> None:
    """The client may reset its position before the recreation is noticed."""
    harness.source.notices_recreation = False
    _recreated(harness, 4, 2)
    with pytest.raises(MemberExpelled, match="partition 0: offset 0 was delivered again"):
        harness.step(2)
    harness.rejoin()
    harness.source.assign([0])
    harness.step(2)
    assert harness.executor.started[-2:] == [(0, 2, 0), (0, 2, 1)]
    harness.executor.finish(0, 0, 1, epoch=1)
    harness.step(2)
    assert harness.offsets()[-1] == 4, "records of the former epoch no longer count"
    harness.executor.finish(0, 0, 1)
    harness.step(2)
    assert (harness.offsets()[-1], _topic_ids(harness)[-1]) == (2, "file.create-1")


def test_no_record_of_a_batch_with_repeated_offsets_starts(harness: ConsumerHarness) -> None:
    harness.produce(3)
    harness.step()
    again = [Record(CREATE, 0, offset, request(1), [], 0) for offset in range(2)]
    harness.source.injected = [Record(CREATE, 0, 3, request(1), [], 0), *again]
    with pytest.raises(MemberExpelled, match="partition 0: offset 0 was delivered again"):
        harness.step()
    assert (0, 3) not in harness.started


def test_the_result_of_a_commit_of_an_ended_epoch_is_ignored() -> None:
    harness = assigned(_SlowCommits)
    source = harness.source
    assert isinstance(source, _SlowCommits)
    harness.produce(2)
    harness.step()
    harness.executor.finish(0, 0)
    harness.step()
    source.lose([0])
    source.assign([0])
    harness.step()
    harness.executor.finish(0, 0)
    commits, on_done = source.answers[0]
    on_done(commits)
    harness.step(2)
    assert [each[0].offset for each, _ in source.answers] == [1, 1], "the new epoch's own commit is still due"


def test_stopping_drains_commits_and_leaves_the_group() -> None:
    harness = ConsumerHarness()
    harness.source.assign([0])
    harness.produce(2)
    thread = threading.Thread(target=harness.processor.run, args=(lambda _: harness.source,), daemon=True)
    thread.start()
    wait_until(lambda: len(harness.started) == 2)
    harness.executor.finish(0, 0)
    harness.processor.stop()
    thread.join(20)
    assert harness.source.closed
    assert harness.last_commit().commit.offset == 1
    assert harness.last_commit().owned


# --- consumer and executor together


def start_worker(
    harness: ExecutorHarness, **options: Any
) -> tuple[FileProcessor, MemoryRecordSource, threading.Thread]:
    """A processor on a thread of its own, with nothing assigned."""
    processor = FileProcessor(
        harness.executor,
        ConsumerOptions(**{"concurrency": 20, "drain_seconds": 1.0, **options}),
        worker_id="worker-1",
        backpressure_reason=lambda: next((each.reason for each in harness.breakers.values() if each.reason), None),
    )
    source = MemoryRecordSource(harness.broker, CREATE, processor)
    thread = threading.Thread(target=processor.run, args=(lambda _: source,), daemon=True)
    thread.start()
    return processor, source, thread


def test_all_records_of_a_topic_are_processed_and_committed() -> None:
    with running_executor() as harness:
        for number in range(300):
            harness.broker.append(CREATE, number % 3, request(number + 1) if number % 50 else b"not json")
        processor, source, thread = start_worker(harness)
        source.assign([0, 1, 2])
        wait_until(lambda: all(harness.broker.committed(partition)[0] == 100 for partition in range(3)))
        processor.stop()
        thread.join(20)
        assert len(harness.results()) == 294
        assert len(harness.broker.records(TOPICS.dead_letters)) == 6
        assert len(harness.store.puts) == 294, "each once"


def test_reassignments_between_two_workers_lose_and_repeat_no_committed_record() -> None:
    store = ControlledStore()
    with running_executor(store=store) as first, running_executor(store=store, broker=first.broker) as second:
        broker = first.broker
        for number in range(150):
            broker.append(CREATE, 0, request(number + 1))
        workers = [start_worker(harness, concurrency=7) for harness in (first, second)]
        owner = 0
        workers[owner][1].assign([0])
        while broker.committed(0)[0] < 150:
            before = broker.committed(0)[0]
            wait_until(lambda before=before: broker.committed(0)[0] > before)  # type: ignore[misc]
            source = workers[owner][1]
            source.revoke([0])
            wait_until(lambda source=source: not source.owned)  # type: ignore[misc]
            owner = 1 - owner
            workers[owner][1].assign([0])
        for processor, _, thread in workers:
            processor.stop()
            thread.join(20)
        assert len(first.results()) == 150
        assert len(store.puts) == 150, "drained and committed at every reassignment: no record is repeated"
        assert all(each.owned for each in broker.commits)
        committed = [each.commit.offset for each in broker.commits]
        assert committed == sorted(committed)


@pytest.mark.parametrize("how", ["lost", "revoked", "cancelled"])
def test_a_worker_without_records_in_progress_resumes_after_an_outage(how: str) -> None:
    with running_executor(breakers=True) as harness:
        harness.store.outage = "S3 is unreachable"
        for number in range(10):
            harness.broker.append(CREATE, 0, request(number + 1), [(RUN_HEADER, b"1")])
        processor, source, thread = start_worker(harness, drain_seconds=0.0)
        source.assign([0])
        try:
            wait_until(lambda: harness.breakers["S3"].reason)
            wait_until(lambda: harness.executor.in_progress({0: 1}) == 10)
            if how == "lost":
                source.lose([0])
            elif how == "revoked":
                source.revoke([0])
            else:
                harness.executor.cancel([(number + 1, 1) for number in range(10)])
            wait_until(lambda: not harness.executor.in_progress({0: 1}))
            source.assign([1])
            wait_until(lambda: source.owned[-1:] == [1])
            harness.store.outage = None
            harness.broker.append(CREATE, 1, request(99))
            wait_until(lambda: harness.broker.committed(1)[0] == 1, "it is on hold for ever")
        finally:
            processor.stop()
            thread.join(20)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 0.02),
        ({"ordering": "partition"}, 0.0),
        ({"concurrency": 3}, 0.0),
        ({"concurrency": 100}, 0.02),
        ({"partition_concurrency": 1}, 0.0),
        ({"partition_concurrency": 20, "topic_partitions": 6}, 0.02),
        ({"group_protocol": "share"}, 0.0),
    ],
)
def test_results_wait_for_each_other_only_where_many_may_be_in_progress(given: dict[str, Any], expected: float) -> None:
    assert result_batching_seconds(load(**given)) == expected
