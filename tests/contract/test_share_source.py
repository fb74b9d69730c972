"""ShareSource: one suite for the fake and for a share group of a real broker."""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from filemill.adapters.kafka.client import client_config
from filemill.adapters.kafka.share_source import DELIVERY_LIMIT, KafkaShareSource
from filemill.adapters.memory.broker import MemoryBroker
from filemill.adapters.memory.share_source import MemoryShareGroup, MemoryShareSource
from filemill.config.settings import Settings
from filemill.domain.records import Record
from filemill.ports import ShareSource

PARTITIONS = 2
DEADLINE_SECONDS = 30.0
POLL_SECONDS = 0.2


class ShareHarness(Protocol):
    """A topic of two partitions, and a share group that reads it."""

    def join(self) -> ShareSource:
        """Add a member to the group."""

    def publish(self, partition: int, count: int) -> None:
        """Append records."""

    def close(self) -> None:
        """Close the members that a test left open."""


class MemoryShareHarness:
    def __init__(self) -> None:
        self._broker = MemoryBroker({"topic": PARTITIONS})
        self._group = MemoryShareGroup(self._broker, "topic", DELIVERY_LIMIT)

    def join(self) -> MemoryShareSource:
        return MemoryShareSource(self._group)

    def publish(self, partition: int, count: int) -> None:
        for number in range(count):
            self._broker.append("topic", partition, b"%d" % number)

    def close(self) -> None: ...


class KafkaShareHarness:
    def __init__(self, settings: Settings) -> None:
        name = f"contract-{uuid.uuid4().hex[:8]}"
        self._topic = name
        self._settings = settings.model_copy(update={"group_protocol": "share", "kafka_group": name})
        admin = AdminClient(client_config(settings, "contract"))
        admin.create_topics([NewTopic(name, num_partitions=PARTITIONS, replication_factor=1)])[name].result()
        self._producer = Producer(client_config(settings, "contract"))
        self._members: list[KafkaShareSource] = []

    def join(self) -> KafkaShareSource:
        self._members.append(KafkaShareSource(self._settings, self._topic))
        return self._members[-1]

    def publish(self, partition: int, count: int) -> None:
        for number in range(count):
            self._producer.produce(self._topic, b"%d" % number, partition=partition)
        assert self._producer.flush(DEADLINE_SECONDS) == 0

    def close(self) -> None:
        for member in self._members:
            member.close()


@pytest.fixture(params=["memory", "kafka"])
def group(request: pytest.FixtureRequest) -> Iterator[ShareHarness]:
    """A share group without members, on an empty topic."""
    harness: ShareHarness
    if request.param == "memory":
        harness = MemoryShareHarness()
    else:
        harness = KafkaShareHarness(request.getfixturevalue("contract_settings"))
    yield harness
    harness.close()


def keys(records: list[Record]) -> list[tuple[int, int]]:
    return sorted((record.partition, record.offset) for record in records)


def read_until(member: ShareSource, done: Callable[[list[Record]], object]) -> list[Record]:
    """Read batches and accept all of them, until what was read is enough."""
    records: list[Record] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not done(records):
        assert time.monotonic() < deadline, records
        batch = member.read(POLL_SECONDS)
        for record in batch:
            member.accept(record.partition, record.offset)
        records += batch
    member.commit_sync(DEADLINE_SECONDS)
    return records


def read_batch(member: ShareSource) -> list[Record]:
    """The next batch that is not empty."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (records := member.read(POLL_SECONDS)):
        assert time.monotonic() < deadline
    return records


def test_a_member_reads_every_record_with_its_remaining_deliveries(group: ShareHarness) -> None:
    group.publish(0, 3)
    group.publish(1, 2)
    member = group.join()
    records = read_until(member, lambda records: len(records) == 5)
    assert keys(records) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert {record.deliveries_left for record in records} == {DELIVERY_LIMIT - 1}
    assert [record.value for record in records if record.partition == 0] == [b"0", b"1", b"2"]


def test_a_read_without_records_returns_an_empty_batch(group: ShareHarness) -> None:
    member = group.join()
    assert member.read(POLL_SECONDS) == []


def test_a_batch_may_be_held_for_some_seconds(group: ShareHarness) -> None:
    assert group.join().batch_seconds > 1


def test_an_accepted_record_is_not_delivered_again(group: ShareHarness) -> None:
    group.publish(0, 2)
    first = group.join()
    read_until(first, lambda records: len(records) == 2)
    first.close()
    group.publish(0, 1)
    assert keys(read_until(group.join(), lambda records: records)) == [(0, 2)]


def test_a_released_record_is_delivered_again_and_counted(group: ShareHarness) -> None:
    group.publish(0, 2)
    member = group.join()
    records = read_batch(member)
    while len(records) < 2:
        for record in records:
            member.release(record.partition, record.offset)
        records = read_batch(member)
    kept, released = records
    member.accept(kept.partition, kept.offset)
    member.release(released.partition, released.offset)
    member.commit_async()
    (again,) = read_until(member, lambda records: records)
    assert keys([again]) == keys([released])
    assert (again.deliveries_left or 0) == (released.deliveries_left or 0) - 1


def test_a_record_is_delivered_no_more_often_than_the_limit(group: ShareHarness) -> None:
    group.publish(0, 1)
    member = group.join()
    left = []
    for _ in range(DELIVERY_LIMIT):
        (record,) = read_batch(member)
        left.append(record.deliveries_left)
        member.release(record.partition, record.offset)
        member.commit_sync(DEADLINE_SECONDS)
    assert left == list(range(DELIVERY_LIMIT - 1, -1, -1))
    group.publish(0, 1)
    assert keys(read_until(member, lambda records: records)) == [(0, 1)]


def test_another_member_gets_the_unacknowledged_records_of_a_closed_one(group: ShareHarness) -> None:
    group.publish(0, 3)
    first = group.join()
    records = read_batch(first)
    accepted, rest = records[0], records[1:]
    first.accept(accepted.partition, accepted.offset)
    first.close()
    expected = {(0, 0), (0, 1), (0, 2)} - set(keys([accepted]))
    found = read_until(group.join(), lambda records: len(records) == len(expected))
    assert set(keys(found)) == expected
    assert set(keys(rest)) <= expected


def test_a_record_that_one_member_holds_is_not_delivered_to_another(group: ShareHarness) -> None:
    for partition in range(PARTITIONS):
        group.publish(partition, 3)
    first = group.join()
    held = read_batch(first)
    second = group.join()
    for partition in range(PARTITIONS):
        group.publish(partition, 3)  # the broker may assign only one of the partitions to a member
    others = read_until(second, lambda records: records)
    assert set(keys(held)).isdisjoint(keys(others))
    for record in held:
        first.accept(record.partition, record.offset)
    first.commit_sync(DEADLINE_SECONDS)


def test_read_fails_before_the_last_batch_is_acknowledged(group: ShareHarness) -> None:
    group.publish(0, 1)
    member = group.join()
    (record,) = read_batch(member)
    with pytest.raises(Exception, match="acknowledged"):
        member.read(0)
    member.accept(record.partition, record.offset)
    assert member.read(0) == []


def test_an_acknowledgement_of_a_record_that_is_not_held_is_ignored(group: ShareHarness) -> None:
    group.publish(0, 1)
    member = group.join()
    member.accept(0, 0)
    member.release(1, 7)
    member.commit_async()
    assert keys(read_until(member, lambda records: records)) == [(0, 0)]


def test_another_member_of_the_fake_gets_records_of_an_expired_lock() -> None:
    """A broker grants no lock short enough to wait for."""
    broker = MemoryBroker({"topic": 1})
    group = MemoryShareGroup(broker, "topic")
    broker.append("topic", 0, b"x")
    first, second = MemoryShareSource(group), MemoryShareSource(group)
    assert keys(first.read(0)) == [(0, 0)]
    assert second.read(0) == []
    group.expire_locks()
    assert keys(second.read(0)) == [(0, 0)]
    first.accept(0, 0)
    first.commit_async()
    assert group.accepted == set()
    second.accept(0, 0)
    second.commit_async()
    assert group.accepted == {(0, 0)}
