"""Two workers and three partitions under random sequences of events.

The events are deliveries, results in any order, rejected commits, revocations, reassignments, losses that a worker is
told of late, and pauses of a process.
"""

import hypothesis.strategies as st
import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from filemill.adapters.memory.broker import MemoryBroker
from filemill.domain.offsets import decode_metadata
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
        self.done: set[tuple[int, int]] = set()  # records whose effects are durable
        self.checked = 0

    def teardown(self) -> None:
        if not hasattr(self, "broker"):
            return
        self._finish_everything()

    # --- events

    @rule(partition=_partition, count=st.integers(1, 6))
    def produce(self, partition: int, count: int) -> None:
        for _ in range(count):
            self.broker.append(CREATE, partition, request(1))

    @rule(worker=_worker)
    def step(self, worker: int) -> None:
        harness = self.workers[worker]
        harness.step()
        harness.source.rejects_commits = False  # the worker has been told

    @rule(worker=_worker, data=st.data())
    def finish(self, worker: int, data: st.DataObject) -> None:
        working = self.workers[worker].executor.working
        in_progress = sorted((epoch, offset) for epoch, offsets in working.items() for offset in offsets)
        if in_progress:
            (partition, epoch), offset = data.draw(st.sampled_from(in_progress))
            self.done.add((partition, offset))
            self.workers[worker].executor.finish(partition, offset, epoch=epoch)

    @rule(worker=_worker, data=st.data())
    def finish_an_abandoned_record(self, worker: int, data: st.DataObject) -> None:
        """Its call to a server had begun when its epoch ended."""
        started = sorted(set(self.workers[worker].executor.started))
        if started:
            partition, epoch, offset = data.draw(st.sampled_from(started))
            self.done.add((partition, offset))
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
            assert all((one.partition, offset) in self.done for offset in range(one.commit.offset))
            metadata, beyond = decode_metadata(one.commit.metadata, one.commit.offset)
            assert metadata is not None
            assert all((one.partition, offset) in self.done for offset in beyond)
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
            harness.step()
        last = self.workers[0]
        last.source.assign(list(range(PARTITIONS)))
        for _ in range(2000):
            last.step()
            for (partition, epoch), offsets in list(last.executor.working.items()):
                for offset in sorted(offsets):
                    self.done.add((partition, offset))
                    last.executor.finish(partition, offset, epoch=epoch)
            ends = {number: len(self.broker.log(CREATE, number)) for number in range(PARTITIONS)}
            if all(max(0, self.broker.committed(number)[0]) == end for number, end in ends.items()):
                break
        else:
            raise AssertionError("records remain, but the worker is idle")
        self.every_commit_is_by_the_owner_and_covers_finished_records_only()


TestGroup = Group.TestCase
TestGroup.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
