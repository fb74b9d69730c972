"""Sets up a consumer group in memory and on Kafka, so that one suite runs on both.

A test calls nothing but the port on a member; `GroupHarness.wait` polls the members until a condition holds.
"""

import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import pytest
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.client import client_config
from filemill.adapters.kafka.record_source import KafkaRecordSource
from filemill.adapters.memory.broker import MemoryBroker, RecordedCommit
from filemill.adapters.memory.record_source import MemoryRecordSource
from filemill.config.settings import Settings
from filemill.domain.offsets import Commit
from filemill.domain.records import Record
from filemill.ports import RecordSource
from tests.integration import topics

PARTITIONS = 3
DEADLINE_SECONDS = 30.0
POLL_SECONDS = 0.02
READ_RECORDS = 100
# Short times for classic members. The broker sets the session of `consumer` members.
SESSION_MILLISECONDS = 1500
HEARTBEAT_MILLISECONDS = 200
MAX_POLL_MILLISECONDS = 2000
# Each group protocol that has assignments, in memory and on Kafka.
EACH = ["memory-eager", "memory-cooperative", "classic-eager", "classic-cooperative", "consumer"]

Event = tuple[str, str, frozenset[int]]  # member, kind of call, partitions


class Member:
    """A member of the group: a record source, and the listener that records its calls."""

    def __init__(self, name: str, log: list[Event]) -> None:
        self.name = name
        self.owned: set[int] = set()
        self.committed: dict[int, tuple[int, str]] = {}
        self.records: list[Record] = []
        self.before_revoke: Callable[[Sequence[int]], None] = lambda _partitions: None
        self.source: RecordSource
        self.closed = False
        self._log = log
        self._calling = False

    def read(self, seconds: float = POLL_SECONDS) -> list[Record]:
        """Read once, and keep the records."""
        with self.calling():
            records = self.source.read(READ_RECORDS, seconds)
        self.records += records
        return records

    def close(self) -> None:
        """Leave the group."""
        if not self.closed:
            with self.calling():
                self.source.close()
            self.closed = True

    @contextmanager
    def calling(self) -> Iterator[None]:
        """While `read` or `close` runs: only then may the listener be called."""
        self._calling = True
        try:
            yield
        finally:
            self._calling = False

    def offsets(self, partition: int) -> list[int]:
        """The offsets of the records read from a partition, in the order of reading."""
        return [record.offset for record in self.records if record.partition == partition]

    def calls(self, kind: str) -> list[frozenset[int]]:
        """The partitions of each call of one kind."""
        return [partitions for name, called, partitions in self._log if (name, called) == (self.name, kind)]

    def on_assigned(self, committed: Mapping[int, tuple[int, str]]) -> None:
        self._note("assigned", committed)
        assert not self.owned & committed.keys(), "assigned what it owns already"
        self.owned |= committed.keys()
        self.committed |= committed

    def on_revoked(self, partitions: Sequence[int]) -> None:
        self.before_revoke(partitions)
        self._note("revoked", partitions)
        assert self.owned >= set(partitions), "revoked what it does not own"
        self.owned -= set(partitions)

    def on_lost(self, partitions: Sequence[int]) -> None:
        self._note("lost", partitions)
        assert self.owned >= set(partitions), "lost what it does not own"
        self.owned -= set(partitions)

    def _note(self, kind: str, partitions: Mapping[int, object] | Sequence[int]) -> None:
        assert self._calling, f"{kind}: outside of read and close"
        self._log.append((self.name, kind, frozenset(partitions)))


class GroupHarness(Protocol):
    """A topic of three partitions and a group that reads it."""

    log: list[Event]  # the calls of all listeners, in the order of time
    cooperative: bool  # a member keeps the partitions that do not move

    def join(self, name: str) -> Member:
        """Add a member to the group."""

    def publish(self, partition: int, *values: bytes) -> None:
        """Append records."""

    def publish_transaction(self, partition: int, *values: bytes) -> None:
        """Append records and the control record that ends their transaction."""

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        """Commit for the group. It must not have members."""

    def committed(self, partition: int) -> tuple[int, str]:
        """The group's offset and metadata."""

    def topic_id(self) -> str:
        """The id of the topic that has the name now."""

    def recreate(self) -> None:
        """Delete the topic and create another one of its name. Members are not polled in the meantime."""

    def expel(self, member: Member, *others: Member) -> None:
        """Have the group expel a member, and the others take its partitions over."""

    def wait(self, condition: Callable[[], object], *members: Member) -> None:
        """Poll the members until the condition holds."""

    def close(self) -> None:
        """Close the members that a test left open."""


class _Members:
    """What both harnesses share."""

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.members: list[Member] = []

    def wait(self, condition: Callable[[], object], *members: Member) -> None:
        """Poll the members until the condition holds."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.log
            for member in members:
                member.read()

    def close(self) -> None:
        """Close the members that a test left open."""
        for member in self.members:
            member.before_revoke = lambda _partitions: None
            member.close()


class MemoryGroupHarness(_Members):
    """The fake, with a coordinator that assigns the partitions as Kafka's do."""

    def __init__(self, *, cooperative: bool) -> None:
        super().__init__()
        self.cooperative = cooperative
        self._topic = "topic"
        self._broker = MemoryBroker({self._topic: PARTITIONS})
        self._sources: dict[str, MemoryRecordSource] = {}  # of the members in the group
        self._assigned: dict[str, set[int]] = {}  # also to those that are leaving
        self._revoking: set[str] = set()

    def join(self, name: str) -> Member:
        member = _MemoryMember(name, self.log, self)
        member.source = self._sources[name] = MemoryRecordSource(self._broker, self._topic, member)
        self.members.append(member)
        self._assigned[name] = set()
        self._rebalance()
        return member

    def publish(self, partition: int, *values: bytes) -> None:
        for value in values:
            self._broker.append(self._topic, partition, value)

    def publish_transaction(self, partition: int, *values: bytes) -> None:
        self.publish(partition, *values)
        self._broker.append_control_record(self._topic, partition)

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        self._broker.commits.append(RecordedCommit(partition, commit(offset, metadata), owned=False))

    def committed(self, partition: int) -> tuple[int, str]:
        return self._broker.committed(partition)

    def topic_id(self) -> str:
        identity = self._broker.identity(self._topic)
        assert identity is not None
        return identity.topic_id

    def recreate(self) -> None:
        self._broker.recreate(self._topic, PARTITIONS)

    def expel(self, member: Member, *others: Member) -> None:
        self._sources.pop(member.name).lose(sorted(self._assigned.pop(member.name)))
        self._rebalance()
        self.wait(lambda: set().union(*(other.owned for other in others)) == set(range(PARTITIONS)), *others)

    def given_back(self, name: str, partitions: Sequence[int]) -> None:
        """A member has given partitions back."""
        self._assigned[name] -= set(partitions)
        self._revoking.discard(name)
        self._rebalance()

    def _rebalance(self) -> None:
        """Revoke what has to move; then assign the partitions without an owner."""
        assigned = {name: self._assigned[name] for name, source in self._sources.items() if not source.closed}
        wanted = _balanced(assigned)
        for name, partitions in assigned.items():
            leaving = partitions - wanted[name] if self.cooperative else partitions if wanted != assigned else set()
            if leaving and name not in self._revoking:
                self._revoking.add(name)
                self._sources[name].revoke(sorted(leaving))
        if self._revoking and not self.cooperative:
            return  # an eager group assigns when everything has been given back
        free = set(range(PARTITIONS)) - set().union(*self._assigned.values())
        for name, partitions in wanted.items():
            if taken := partitions & free:
                self._assigned[name] |= taken
                self._sources[name].assign(sorted(taken))


class _MemoryMember(Member):
    """Tells the coordinator what it gives back."""

    def __init__(self, name: str, log: list[Event], group: MemoryGroupHarness) -> None:
        super().__init__(name, log)
        self._group = group

    def on_revoked(self, partitions: Sequence[int]) -> None:
        super().on_revoked(partitions)
        self._group.given_back(self.name, partitions)


def _balanced(owners: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """Equal shares; each member keeps what it has, up to its share."""
    if not owners:
        return {}
    counts = [PARTITIONS // len(owners) + (place < PARTITIONS % len(owners)) for place in range(len(owners))]
    wanted = {name: set(sorted(owned)[:count]) for (name, owned), count in zip(owners.items(), counts, strict=True)}
    free = iter(sorted(set(range(PARTITIONS)) - set().union(*wanted.values())))
    for (name, partitions), count in zip(wanted.items(), counts, strict=True):
        wanted[name] = partitions | set(itertools.islice(free, count - len(partitions)))
    return wanted


class KafkaGroupHarness(_Members):
    """A real broker, a topic and a group of their own."""

    def __init__(self, settings: Settings, protocol: str, *, max_poll_milliseconds: int) -> None:
        super().__init__()
        self.cooperative = protocol != "classic-eager"
        name = f"contract-{uuid.uuid4().hex[:8]}"
        self._topic = name
        self._settings = settings.model_copy(
            update={
                "group_protocol": protocol,
                "kafka_group": name,
                "topic_create": name,
                "session_timeout_ms": SESSION_MILLISECONDS,
                "heartbeat_interval_ms": HEARTBEAT_MILLISECONDS,
                "max_poll_interval_ms": max_poll_milliseconds,
            }
        )
        admin = AdminClient(client_config(settings, "contract"))
        admin.create_topics([NewTopic(name, num_partitions=PARTITIONS, replication_factor=1)])[name].result()
        self._producer = Producer(client_config(settings, "contract"))

    def join(self, name: str) -> Member:
        member = Member(name, self.log)
        settings = self._settings.model_copy(update={"worker_id": name})
        member.source = KafkaRecordSource(settings, self._topic, member)
        self.members.append(member)
        return member

    def publish(self, partition: int, *values: bytes) -> None:
        for value in values:
            self._producer.produce(self._topic, value, partition=partition)
        assert self._producer.flush(DEADLINE_SECONDS) == 0

    def publish_transaction(self, partition: int, *values: bytes) -> None:
        producer = Producer(client_config(self._settings, "contract", **{"transactional.id": self._topic}))
        producer.init_transactions()
        producer.begin_transaction()
        for value in values:
            producer.produce(self._topic, value, partition=partition)
        producer.commit_transaction()

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        topics.commit(self._settings, partition, offset, metadata)

    def topic_id(self) -> str:
        return KafkaAdmin(self._settings).identities([self._topic])[self._topic].topic_id

    def recreate(self) -> None:
        topics.recreate_topic(self._settings, self._topic, PARTITIONS)
        self._producer = Producer(client_config(self._settings, "contract"))  # the other one knows the former topic

    def committed(self, partition: int) -> tuple[int, str]:
        config = client_config(self._settings, "contract", **{"group.id": self._settings.group_id})
        consumer = KafkaConsumer(config)
        try:
            (found,) = consumer.committed([TopicPartition(self._topic, partition)], timeout=DEADLINE_SECONDS)
        finally:
            consumer.close()
        return found.offset, found.metadata or ""

    def close(self) -> None:
        """Close one member after the other; the remaining ones poll, because a rebalance may need them."""
        for member in self.members:
            member.before_revoke = lambda _partitions: None
        remaining = [member for member in self.members if not member.closed]
        with ThreadPoolExecutor(1) as pool:
            while remaining:
                closing = pool.submit(remaining.pop().close)
                while remaining and not closing.done():
                    for member in remaining:
                        member.read()
                closing.result()

    def expel(self, member: Member, *others: Member) -> None:
        """A member that does not poll is expelled when its poll interval is over."""
        assert member not in others
        self.wait(lambda: set().union(*(other.owned for other in others)) == set(range(PARTITIONS)), *others)


def create_harness(
    request: pytest.FixtureRequest, *, max_poll_milliseconds: int = MAX_POLL_MILLISECONDS
) -> GroupHarness:
    """The harness that the parameter of a fixture names, one of EACH."""
    kind: str = request.param
    if kind.startswith("memory-"):
        return MemoryGroupHarness(cooperative=kind == "memory-cooperative")
    settings: Settings = request.getfixturevalue("contract_settings")
    return KafkaGroupHarness(settings, kind, max_poll_milliseconds=max_poll_milliseconds)


def commit(offset: int, metadata: str = "") -> Commit:
    """A commit of an offset."""
    return Commit(offset, metadata, version=0)
