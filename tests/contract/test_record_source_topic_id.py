"""RecordSource: where a member begins to read, and what it does when its topic is deleted and created again."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import pytest

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.record_source import KafkaRecordSource
from filemill.adapters.memory.broker import MemoryBroker, RecordedCommit
from filemill.adapters.memory.record_source import MemoryRecordSource
from filemill.config.settings import Settings
from filemill.domain.offsets import Commit, encode_metadata
from filemill.errors import MemberExpelled
from filemill.ports import RebalanceListener, RecordSource
from tests.integration import topics

DEADLINE_SECONDS = 40.0
NO_OFFSET = -1001
FORMER_TOPIC = "Tj7u0cCkR0yJ9yZ8bF1h3w"


class GroupHarness(Protocol):
    """A topic of three partitions, and a group without members."""

    def produce(self, partition: int, count: int) -> None:
        """Write records."""

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        """Commit for the group, which has no members."""

    def topic_id(self) -> str:
        """The id of the topic that has the name now."""

    def recreate(self) -> None:
        """Delete the topic and create another one of its name."""

    def join(self, listener: RebalanceListener) -> RecordSource:
        """A member that gets all partitions."""


class MemoryGroupHarness:
    def __init__(self) -> None:
        self.broker = MemoryBroker({"topic": 3})

    def produce(self, partition: int, count: int) -> None:
        for _ in range(count):
            self.broker.append("topic", partition, b"x")

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        self.broker.commits.append(RecordedCommit(partition, Commit(offset, metadata, 0), owned=False))

    def topic_id(self) -> str:
        identity = self.broker.identity("topic")
        assert identity is not None
        return identity.topic_id

    def recreate(self) -> None:
        self.broker.recreate("topic", 3)

    def join(self, listener: RebalanceListener) -> MemoryRecordSource:
        source = MemoryRecordSource(self.broker, "topic", listener)
        source.assign([0, 1, 2])
        return source


class KafkaGroupHarness:
    def __init__(self, settings: Settings) -> None:
        name = f"contract-{uuid.uuid4().hex[:8]}"
        self.settings = settings.model_copy(update={"topic_create": name, "kafka_group": name, "worker_id": name})
        KafkaAdmin(self.settings).create_topics()

    def produce(self, partition: int, count: int) -> None:
        topics.publish(self.settings, self.settings.topic_create, [b"x"] * count, partition=partition)

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        topics.commit(self.settings, partition, offset, metadata)

    def topic_id(self) -> str:
        topic = self.settings.topic_create
        return KafkaAdmin(self.settings).identities([topic])[topic].topic_id

    def recreate(self) -> None:
        topics.recreate_topic(self.settings, self.settings.topic_create)

    def join(self, listener: RebalanceListener) -> KafkaRecordSource:
        return KafkaRecordSource(self.settings, self.settings.topic_create, listener)


class AssignmentRecorder:
    """A listener that records the assignments."""

    def __init__(self) -> None:
        self.committed: dict[int, tuple[int, str]] = {}
        self.owned: set[int] = set()

    def on_assigned(self, committed: Mapping[int, tuple[int, str]]) -> None:
        self.committed |= committed
        self.owned |= committed.keys()

    def on_revoked(self, partitions: Sequence[int]) -> None:
        self.owned -= set(partitions)

    def on_lost(self, partitions: Sequence[int]) -> None:
        self.owned -= set(partitions)


@pytest.fixture(params=["memory", "consumer", "classic-cooperative", "classic-eager"])
def harness(request: pytest.FixtureRequest) -> GroupHarness:
    """The fake, and the real one under each protocol that has assignments."""
    if request.param == "memory":
        return MemoryGroupHarness()
    settings: Settings = request.getfixturevalue("contract_settings")
    return KafkaGroupHarness(settings.model_copy(update={"group_protocol": request.param}))


@pytest.fixture
def recorder() -> AssignmentRecorder:
    return AssignmentRecorder()


@pytest.fixture
def join(harness: GroupHarness, recorder: AssignmentRecorder) -> Iterator[Callable[[], RecordSource]]:
    """Make a member, which is closed in the end."""
    members: list[RecordSource] = []

    def create() -> RecordSource:
        members.append(harness.join(recorder))
        return members[-1]

    yield create
    for member in members:
        member.close()


def _read(member: RecordSource, count: int) -> set[tuple[int, int]]:
    """Partition and offset of the first records."""
    found: set[tuple[int, int]] = set()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(found) < count:
        assert time.monotonic() < deadline, found
        found |= {(record.partition, record.offset) for record in member.read(100, 0.1)}
    return found


def test_a_member_goes_on_from_commits_of_this_topic_and_from_those_that_name_none(
    harness: GroupHarness, recorder: AssignmentRecorder, join: Callable[[], RecordSource]
) -> None:
    for partition in range(3):
        harness.produce(partition, 4)
    named = encode_metadata("w", 1, 2, [3], harness.topic_id())
    unnamed = encode_metadata("w", 1, 3, [])
    harness.commit(0, 2, named)
    harness.commit(1, 3, unnamed)
    member = join()
    assert _read(member, 7) == {(0, 2), (0, 3), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)}
    assert recorder.committed == {0: (2, named), 1: (3, unnamed), 2: (NO_OFFSET, "")}
    assert {member.topic_id(partition) for partition in range(3)} == {harness.topic_id()}


def test_a_member_reads_from_the_beginning_where_the_commit_is_of_another_topic(
    harness: GroupHarness, recorder: AssignmentRecorder, join: Callable[[], RecordSource]
) -> None:
    harness.produce(0, 4)
    harness.commit(0, 2, encode_metadata("w", 1, 2, [3], FORMER_TOPIC))
    member = join()
    assert _read(member, 4) == {(0, 0), (0, 1), (0, 2), (0, 3)}
    assert recorder.committed[0] == (NO_OFFSET, "")
    assert member.topic_id(0) == harness.topic_id()


def test_a_member_leaves_when_its_topic_is_recreated_and_the_next_one_reads_all(
    harness: GroupHarness, recorder: AssignmentRecorder, join: Callable[[], RecordSource]
) -> None:
    """Under KIP-848 the broker revokes and assigns the partitions, and the member may stay."""
    harness.produce(0, 2)
    member = join()
    assert _read(member, 2) == {(0, 0), (0, 1)}
    former = member.topic_id(0)
    harness.recreate()
    harness.produce(0, 5)
    found: set[tuple[int, int]] = set()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(found) < 5:
        assert time.monotonic() < deadline, found
        try:
            found |= {
                (record.partition, record.offset) for record in member.read(100, 0.1) if member.topic_id(0) != former
            }
        except MemberExpelled:
            assert recorder.owned == set()
            assert member.topic_id(0) == ""
            member = join()
    assert member.topic_id(0) == harness.topic_id() != former


def test_a_member_that_left_may_be_closed_again(join: Callable[[], RecordSource]) -> None:
    member = join()
    member.close()
    member.close()
