"""Two workers, three partitions, and what can happen to them, in any order.

Delivery, results in any order, failed commits, revocations, the same partition back again, losses that a worker hears
of late, sleep, a topic that is deleted and created again.
"""

import itertools

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from filemill.adapters.memory.broker import MemoryBroker
from filemill.domain.offsets import decode_metadata, is_of_another_topic
from filemill.errors import MemberExpelled
from filemill_workers.file_processor import consumer
from filemill_workers.file_processor.executor import FinishedRecord
from tests.unit.consumer_harness import Scene
from tests.unit.executor_harness import CREATE, request

PARTITIONS = 3
_partition = st.integers(0, PARTITIONS - 1)
_worker = st.integers(0, 1)


class Group(RuleBasedStateMachine):
    """A broker that puts members out, and two processors that may not know it yet."""

    @initialize()
    def begin(self) -> None:
        self.poll_seconds, consumer.POLL_SECONDS = consumer.POLL_SECONDS, 0.0
        self.commit_seconds, consumer.COMMIT_SECONDS = consumer.COMMIT_SECONDS, 0.0
        self.broker = MemoryBroker({CREATE: PARTITIONS})
        self.scenes = [Scene(4, name=f"worker-{number}", broker=self.broker) for number in range(2)]
        self.owner: dict[int, int] = {}
        self.done: set[bytes | None] = set()  # the values of records whose effects are durable: no two are equal
        self.file_ids = itertools.count(1)
        self.checked = 0

    def teardown(self) -> None:
        if not hasattr(self, "broker"):
            return
        try:
            self._come_to_rest()
        finally:
            consumer.POLL_SECONDS = self.poll_seconds
            consumer.COMMIT_SECONDS = self.commit_seconds

    # --- what happens

    @rule(partition=_partition, count=st.integers(1, 6))
    def produce(self, partition: int, count: int) -> None:
        for _ in range(count):
            self.broker.append(CREATE, partition, request(next(self.file_ids)))

    @rule(worker=_worker)
    def turn(self, worker: int) -> None:
        scene = self.scenes[worker]
        try:
            scene.turn()
        except MemberExpelled:
            scene.join_again()
            self.owner = {partition: owner for partition, owner in self.owner.items() if owner != worker}
        scene.source.rejects_commits = False  # it has heard by now

    @rule(worker=_worker, data=st.data())
    def finish(self, worker: int, data: st.DataObject) -> None:
        working = self.scenes[worker].workshop.working
        held = sorted((epoch, offset) for epoch, offsets in working.items() for offset in offsets)
        if held:
            (partition, epoch), offset = data.draw(st.sampled_from(held))
            self._finish(worker, partition, epoch, offset)

    @rule(worker=_worker, data=st.data())
    def finish_what_was_let_go(self, worker: int, data: st.DataObject) -> None:
        """Its effect was under way to a server when its epoch ended."""
        begun = sorted(set(self.scenes[worker].workshop.begun))
        if begun:
            partition, epoch, offset = data.draw(st.sampled_from(begun))
            self.done.add(self.scenes[worker].workshop.values[partition, epoch, offset])
            self.scenes[worker].workshop.finished.put(FinishedRecord(partition, epoch, offset))

    @rule(partition=_partition, worker=_worker)
    def assign(self, partition: int, worker: int) -> None:
        if partition not in self.owner:
            self.owner[partition] = worker
            self.scenes[worker].source.assign([partition])

    @precondition(lambda self: self.owner)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.owner)))
        worker = self.owner.pop(partition)
        self.scenes[worker].source.revoke([partition])
        self.turn(worker)  # the broker waits for it

    @precondition(lambda self: self.owner)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """The member is put out: it has lost all that it had, its commits are refused, and it hears of that later."""
        worker = self.owner[data.draw(st.sampled_from(sorted(self.owner)))]
        lost = sorted(partition for partition, owner in self.owner.items() if owner == worker)
        self.scenes[worker].source.rejects_commits = True
        self.scenes[worker].source.lose(lost)
        for partition in lost:
            del self.owner[partition]

    @rule(counts=st.lists(st.integers(0, 6), min_size=PARTITIONS, max_size=PARTITIONS), noticed=st.booleans())
    def recreate_the_topic(self, counts: list[int], noticed: bool) -> None:
        """Another topic has its name, perhaps with the offsets that the group has; members may hear of it late."""
        self.broker.recreate(CREATE, PARTITIONS)
        self.checked = len(self.broker.commits)
        for scene in self.scenes:
            scene.source.notices_recreation = noticed
        for partition, count in enumerate(counts):
            if count:
                self.produce(partition, count)

    @rule(worker=_worker)
    def notice_a_recreated_topic(self, worker: int) -> None:
        self.scenes[worker].source.notices_recreation = True

    @rule(worker=_worker)
    def refuse_commits_for_a_turn(self, worker: int) -> None:
        self.scenes[worker].source.rejects_commits = True

    @rule(worker=_worker)
    def sleep(self, worker: int) -> None:
        processor = self.scenes[worker].processor
        processor._membership_confirmed_at -= processor._membership_ttl_seconds + 1

    # --- what holds

    @invariant()
    def no_commit_passes_an_unfinished_record_or_is_a_strangers(self) -> None:
        if not hasattr(self, "broker"):
            return
        commits = self.broker.commits
        present = self._topic_id()
        for one in commits[self.checked :]:
            assert one.owned
            metadata, beyond = decode_metadata(one.commit.metadata, one.commit.offset)
            assert metadata is not None
            assert metadata.topic_id
            if metadata.topic_id == present:  # no member believes another one
                log = self.broker.log(CREATE, one.partition)
                assert all(log[offset].value in self.done for offset in [*range(one.commit.offset), *beyond])
        self.checked = len(commits)

    @invariant()
    def no_worker_holds_more_than_it_may(self) -> None:
        for scene in getattr(self, "scenes", ()):
            assert 0 <= scene.processor._in_flight <= 4 + 1

    def _come_to_rest(self) -> None:
        """With one worker and time enough everything ends, and is committed."""
        for partition in sorted(self.owner):
            worker = self.owner.pop(partition)
            self.scenes[worker].source.revoke([partition])
        for scene in self.scenes:
            scene.source.rejects_commits = False
            self.turn(self.scenes.index(scene))
        last = self.scenes[0]
        last.source.notices_recreation = True
        self.turn(0)
        last.source.assign(list(range(PARTITIONS)))
        for _ in range(2000):
            last.turn()
            for (partition, epoch), offsets in list(last.workshop.working.items()):
                for offset in sorted(offsets):
                    self._finish(0, partition, epoch, offset)
            ends = {number: len(self.broker.log(CREATE, number)) for number in range(PARTITIONS)}
            if all(self._committed(number) == end for number, end in ends.items()):
                break
        else:
            raise AssertionError("it does not come to rest: somebody idles before records")
        self.no_commit_passes_an_unfinished_record_or_is_a_strangers()
        records = self.broker.records(CREATE)
        assert all(record.value in self.done for record in records), "a record was skipped"

    def _finish(self, worker: int, partition: int, epoch: int, offset: int) -> None:
        self.done.add(self.scenes[worker].workshop.values[partition, epoch, offset])
        self.scenes[worker].workshop.finish(partition, offset, epoch=epoch)

    def _committed(self, partition: int) -> int:
        offset, metadata = self.broker.committed(partition)
        return 0 if is_of_another_topic(metadata, self._topic_id()) else max(0, offset)

    def _topic_id(self) -> str:
        identity = self.broker.identity(CREATE)
        assert identity is not None
        return identity.topic_id


TestGroup = Group.TestCase
TestGroup.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
