"""Two workers and three partitions under random sequences of events.

The events are deliveries, results in any order, rejected commits, revocations, reassignments, losses that a worker is
told of late, pauses of a process, and a topic that is recreated.
"""

import itertools

import hypothesis.strategies as st
import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from filemill.adapters.memory.broker import MemoryBroker
from filemill.domain.offsets import decode_metadata, is_of_another_topic
from filemill.errors import MemberExpelled
from filemill_workers.file_processor.executor import FinishedRecord
from tests.unit.consumer_harness import OPTIONS, ConsumerHarness
from tests.unit.executor_harness import CREATE, request

PARTITIONS = 3
_partition = st.integers(0, PARTITIONS - 1)
_worker = st.integers(0, 1)


class Group(RuleBasedStateMachine):
    """A broker that expels members, and two processors that may not know it yet."""

    @initialize()
    def begin(self) -> None:
        self.broker = MemoryBroker({CREATE: PARTITIONS})
        options = msgspec.structs.replace(OPTIONS, concurrency=4)
        self.workers = [ConsumerHarness(options, name=f"worker-{number}", broker=self.broker) for number in range(2)]
        self.owner: dict[int, int] = {}
        self.done: set[bytes | None] = set()  # values of records whose effects are durable; no two are equal
        self.file_ids = itertools.count(1)
        self.checked = 0

    def teardown(self) -> None:
        if not hasattr(self, "broker"):
            return
        self._finish_everything()

    # --- events

    @rule(partition=_partition, count=st.integers(1, 6))
    def produce(self, partition: int, count: int) -> None:
        for _ in range(count):
            self.broker.append(CREATE, partition, request(next(self.file_ids)))

    @rule(worker=_worker)
    def step(self, worker: int) -> None:
        harness = self.workers[worker]
        try:
            harness.step()
        except MemberExpelled:
            harness.rejoin()
            self.owner = {partition: owner for partition, owner in self.owner.items() if owner != worker}
        harness.source.rejects_commits = False  # the worker has been told

    @rule(worker=_worker, data=st.data())
    def finish(self, worker: int, data: st.DataObject) -> None:
        working = self.workers[worker].executor.working
        in_progress = sorted((epoch, offset) for epoch, offsets in working.items() for offset in offsets)
        if in_progress:
            (partition, epoch), offset = data.draw(st.sampled_from(in_progress))
            self._finish(worker, partition, epoch, offset)

    @rule(worker=_worker, data=st.data())
    def finish_an_abandoned_record(self, worker: int, data: st.DataObject) -> None:
        """Its call to a server had begun when its epoch ended."""
        started = sorted(set(self.workers[worker].executor.started))
        if started:
            partition, epoch, offset = data.draw(st.sampled_from(started))
            self.done.add(self.workers[worker].executor.values[partition, epoch, offset])
            self.workers[worker].executor.finished.put(FinishedRecord(partition, epoch, offset))

    @rule(partition=_partition, worker=_worker)
    def assign(self, partition: int, worker: int) -> None:
        if partition not in self.owner:
            self.owner[partition] = worker
            self.workers[worker].source.assign([partition])

    @precondition(lambda self: self.owner)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.owner)))
        worker = self.owner.pop(partition)
        self.workers[worker].source.revoke([partition])
        self.step(worker)  # the broker waits for it

    @precondition(lambda self: self.owner)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """The broker expels the member and rejects its commits. The member is told later."""
        worker = self.owner[data.draw(st.sampled_from(sorted(self.owner)))]
        lost = sorted(partition for partition, owner in self.owner.items() if owner == worker)
        self.workers[worker].source.rejects_commits = True
        self.workers[worker].source.lose(lost)
        for partition in lost:
            del self.owner[partition]

    @rule(counts=st.lists(st.integers(0, 6), min_size=PARTITIONS, max_size=PARTITIONS), noticed=st.booleans())
    def recreate_the_topic(self, counts: list[int], noticed: bool) -> None:
        """Another topic gets the name, perhaps with the committed offsets. Members may notice it late."""
        self.broker.recreate(CREATE, PARTITIONS)
        self.checked = len(self.broker.commits)
        for harness in self.workers:
            harness.source.notices_recreation = noticed
        for partition, count in enumerate(counts):
            if count:
                self.produce(partition, count)

    @rule(worker=_worker)
    def notice_a_recreated_topic(self, worker: int) -> None:
        self.workers[worker].source.notices_recreation = True

    @rule(worker=_worker)
    def reject_commits_for_one_step(self, worker: int) -> None:
        self.workers[worker].source.rejects_commits = True

    @rule(worker=_worker)
    def pause_process(self, worker: int) -> None:
        self.workers[worker].pause_process()

    # --- invariants

    @invariant()
    def every_commit_is_by_the_owner_and_covers_finished_records_only(self) -> None:
        if not hasattr(self, "broker"):
            return
        commits = self.broker.commits
        for one in commits[self.checked :]:
            assert one.owned
            metadata, beyond = decode_metadata(one.commit.metadata, one.commit.offset)
            assert metadata is not None
            assert metadata.topic_id
            if metadata.topic_id == self._topic_id():  # members ignore commits of another topic
                log = self.broker.log(CREATE, one.partition)
                assert all(log[offset].value in self.done for offset in [*range(one.commit.offset), *beyond])
        self.checked = len(commits)

    @invariant()
    def no_worker_exceeds_its_concurrency(self) -> None:
        for harness in getattr(self, "workers", ()):
            assert 0 <= harness.processor.in_flight <= 4 + 1

    def _finish_everything(self) -> None:
        """One worker with enough time finishes and commits every record."""
        for partition in sorted(self.owner):
            worker = self.owner.pop(partition)
            self.workers[worker].source.revoke([partition])
        for harness in self.workers:
            harness.source.rejects_commits = False
            self.step(self.workers.index(harness))
        last = self.workers[0]
        last.source.notices_recreation = True
        self.step(0)
        last = self.workers[0]
        last.source.assign(list(range(PARTITIONS)))
        for _ in range(2000):
            last.step()
            for (partition, epoch), offsets in list(last.executor.working.items()):
                for offset in sorted(offsets):
                    self._finish(0, partition, epoch, offset)
            ends = {number: len(self.broker.log(CREATE, number)) for number in range(PARTITIONS)}
            if all(self._committed(number) == end for number, end in ends.items()):
                break
        else:
            raise AssertionError("records remain, but the worker is idle")
        self.every_commit_is_by_the_owner_and_covers_finished_records_only()
        records = self.broker.records(CREATE)
        assert all(record.value in self.done for record in records), "a record was skipped"

    def _finish(self, worker: int, partition: int, epoch: int, offset: int) -> None:
        self.done.add(self.workers[worker].executor.values[partition, epoch, offset])
        self.workers[worker].executor.finish(partition, offset, epoch=epoch)

    def _committed(self, partition: int) -> int:
        offset, metadata = self.broker.committed(partition)
        return 0 if is_of_another_topic(metadata, self._topic_id()) else max(0, offset)

    def _topic_id(self) -> str:
        identity = self.broker.identity(CREATE)
        assert identity is not None
        return identity.topic_id


TestGroup = Group.TestCase
TestGroup.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
