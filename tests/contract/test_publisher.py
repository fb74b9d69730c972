"""Publisher: one suite for the in-memory publisher and the real one."""

import time
import uuid
from collections.abc import Callable
from typing import Protocol

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.client import KafkaPublisher
from filemill.adapters.kafka.topic_reader import KafkaTopicReader
from filemill.adapters.memory.broker import MemoryBroker
from filemill.adapters.memory.publisher import MemoryPublisher
from filemill.config.settings import Settings
from filemill.domain.messages import Headers
from filemill.domain.records import Record
from filemill.errors import PermanentError, Unavailable
from filemill.ports import DeliveryReport, Publisher

DEADLINE_SECONDS = 20.0


class BrokerHarness(Protocol):
    """A broker with one topic of three partitions."""

    topic: str
    publisher: Publisher

    def records(self) -> list[Record]:
        """All records, in each partition's order."""

    def add_partitions(self, total: int) -> None:
        """Raise the number of partitions."""


class MemoryBrokerHarness:
    def __init__(self) -> None:
        self.topic = "topic"
        self.broker = MemoryBroker({self.topic: 3})
        self.publisher: Publisher = MemoryPublisher(self.broker)

    def records(self) -> list[Record]:
        return self.broker.records(self.topic)

    def add_partitions(self, total: int) -> None:
        self.broker.add_partitions(self.topic, total)


class KafkaBrokerHarness:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topic = f"contract-{uuid.uuid4().hex[:8]}"
        self._admin = AdminClient({"bootstrap.servers": settings.kafka_broker})
        self._admin.create_topics([NewTopic(self.topic, num_partitions=3, replication_factor=1)])[self.topic].result()
        self.publisher: Publisher = KafkaPublisher(settings, "contract")

    def records(self) -> list[Record]:
        reader = KafkaTopicReader(self.settings, [self.topic], f"contract-{uuid.uuid4().hex[:8]}")
        found: list[Record] = []
        try:
            reader.refresh({})
            deadline = time.monotonic() + DEADLINE_SECONDS
            expected = self._end(deadline)
            while len(found) < expected:
                assert time.monotonic() < deadline
                found += reader.read(100, 0.1)
        finally:
            reader.close()
        return sorted(found, key=lambda record: record.partition)

    def _end(self, deadline: float) -> int:
        """The number of records. A broker that has just started may still create its coordinators."""
        while True:
            try:
                return sum(part.end or 0 for part in KafkaAdmin(self.settings).offsets("nobody", self.topic))
            except Unavailable:
                assert time.monotonic() < deadline

    def add_partitions(self, total: int) -> None:
        self._admin.create_partitions([NewPartitions(self.topic, total)])[self.topic].result()


@pytest.fixture(params=["memory", "kafka"])
def broker(request: pytest.FixtureRequest) -> BrokerHarness:
    """One topic of three partitions."""
    if request.param == "memory":
        return MemoryBrokerHarness()
    return KafkaBrokerHarness(request.getfixturevalue("contract_settings"))


def _until(publisher: Publisher, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "no acknowledgement"
        publisher.poll(0.05)


def test_a_delivery_report_has_partition_and_offset(broker: BrokerHarness) -> None:
    reports: list[DeliveryReport] = []
    for partition in (2, 2, 0):
        broker.publisher.publish(broker.topic, b"x", reports.append, partition=partition)
    _until(broker.publisher, lambda: len(reports) == 3)
    assert sorted((report.partition, report.offset) for report in reports) == [(0, 0), (2, 0), (2, 1)]
    assert all(report.error is None for report in reports)


def test_delivery_callbacks_run_only_inside_poll_or_flush(broker: BrokerHarness) -> None:
    reports: list[DeliveryReport] = []
    broker.publisher.publish(broker.topic, b"x", reports.append, partition=0)
    broker.publisher.partitions(broker.topic)
    assert reports == []
    assert broker.publisher.flush(DEADLINE_SECONDS) == 0
    assert len(reports) == 1
    assert broker.publisher.poll(0) == 0


def test_poll_returns_whether_it_called_callbacks(broker: BrokerHarness) -> None:
    """The numbers differ: librdkafka counts events, and one event may contain many reports."""
    reports: list[DeliveryReport] = []
    assert broker.publisher.poll(0) == 0
    for _ in range(5):
        broker.publisher.publish(broker.topic, b"x", reports.append, partition=1)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(reports) < 5:
        assert time.monotonic() < deadline
        before = len(reports)
        assert (broker.publisher.poll(0.05) > 0) == (len(reports) > before)


def test_each_partition_keeps_the_publishing_order(broker: BrokerHarness) -> None:
    for number in range(300):
        broker.publisher.publish(broker.topic, b"%d" % number, partition=number % 3)
    assert broker.publisher.flush(DEADLINE_SECONDS) == 0
    for partition in range(3):
        values = [int(record.value or b"") for record in broker.records() if record.partition == partition]
        assert values == list(range(partition, 300, 3))


def test_value_and_headers_are_unchanged(broker: BrokerHarness) -> None:
    headers: Headers = [
        ("filemill-run", b"1"),
        ("twice", b"a"),
        ("twice", b""),
        ("twice", None),
        ("bytes", b"\x00\xff"),
    ]
    broker.publisher.publish(broker.topic, b"\x00\xff{}", partition=1, headers=headers)
    broker.publisher.publish(broker.topic, None, partition=1)
    broker.publisher.flush(DEADLINE_SECONDS)
    first, second = broker.records()
    assert (first.topic, first.partition, first.offset) == (broker.topic, 1, 0)
    assert (first.value, first.headers) == (b"\x00\xff{}", headers)
    assert (second.value, second.headers, second.offset) == (None, [], 1)
    assert abs(first.timestamp_ms / 1000 - time.time()) < 60


def test_one_key_goes_to_one_partition(broker: BrokerHarness) -> None:
    reports: list[DeliveryReport] = []
    for _ in range(12):
        broker.publisher.publish(broker.topic, b"x", reports.append, key="worker-1")
        broker.publisher.poll(0)
    broker.publisher.flush(DEADLINE_SECONDS)
    assert len(reports) == 12
    assert len({report.partition for report in reports}) == 1


def test_partitions_asks_the_broker(broker: BrokerHarness) -> None:
    assert broker.publisher.partitions(broker.topic) == 3
    assert broker.publisher.partitions("no.such.topic") == 0


def test_an_added_partition_accepts_records(broker: BrokerHarness) -> None:
    reports: list[DeliveryReport] = []
    broker.publisher.publish(broker.topic, b"x", partition=0)
    broker.publisher.flush(DEADLINE_SECONDS)
    broker.add_partitions(5)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while broker.publisher.partitions(broker.topic) < 5:
        assert time.monotonic() < deadline
    broker.publisher.publish(broker.topic, b"x", reports.append, partition=4)
    _until(broker.publisher, lambda: reports)
    assert reports == [DeliveryReport(4, 0)]


@pytest.mark.parametrize("knows_the_topic", [True, False])
def test_a_record_for_a_missing_partition_is_rejected(broker: BrokerHarness, knows_the_topic: bool) -> None:
    """At once or in a report: a client that knows the topic rejects it at once."""
    reports: list[DeliveryReport] = []
    errors: list[str] = []
    if knows_the_topic:
        broker.publisher.partitions(broker.topic)
    try:
        broker.publisher.publish(broker.topic, b"x", reports.append, partition=7)
        _until(broker.publisher, lambda: reports)
    except Unavailable as error:
        errors.append(str(error))
    errors += [report.error or "" for report in reports]
    assert len(errors) == 1
    assert "nknown partition" in errors[0]
    assert broker.records() == []


def test_a_record_that_is_too_large_is_a_permanent_error(broker: BrokerHarness) -> None:
    with pytest.raises(PermanentError):
        broker.publisher.publish(broker.topic, bytes(3 * 1024 * 1024), partition=0)


def test_records_are_queued_during_an_outage_until_the_queue_is_full(contract_settings: Settings) -> None:
    unreachable = contract_settings.model_copy(
        update={
            "kafka_broker": "127.0.0.1:1",
            "kafka_properties": {"queue.buffering.max.messages": "5"},
            "server_timeout_seconds": 0.5,
        }
    )
    fake = MemoryBroker({"t": 1})
    fake.outage = "away"
    publishers: list[Publisher] = [MemoryPublisher(fake, queue_records=5), KafkaPublisher(unreachable, "contract")]
    for publisher in publishers:
        reports: list[DeliveryReport] = []
        for _ in range(5):
            publisher.publish("t", b"x", reports.append, partition=0)
        with pytest.raises(Unavailable):
            publisher.publish("t", b"x", reports.append, partition=0)
        assert publisher.flush(0.05) == 5
        assert reports == []
        began = time.monotonic()
        with pytest.raises(Unavailable):
            publisher.partitions("t")
        assert time.monotonic() - began < 5


def test_a_publisher_continues_after_an_outage_of_the_fake() -> None:
    broker = MemoryBroker({"t": 1})
    publisher = MemoryPublisher(broker)
    reports: list[DeliveryReport] = []
    broker.outage = "away"
    publisher.publish("t", b"1", reports.append, partition=0)
    broker.outage = None
    publisher.publish("t", b"2", reports.append, partition=0)
    assert publisher.flush(0) == 0
    assert [report.offset for report in reports] == [0, 1]
    assert [record.value for record in broker.records("t")] == [b"1", b"2"]


def test_a_rejected_record_is_reported_and_not_stored() -> None:
    broker = MemoryBroker({"t": 1})
    publisher = MemoryPublisher(broker)
    reports: list[DeliveryReport] = []
    broker.reject_reason = "Broker: Not enough in-sync replicas"
    publisher.publish("t", b"1", reports.append, partition=0)
    publisher.poll()
    assert reports == [DeliveryReport(-1, -1, "Broker: Not enough in-sync replicas")]
    assert broker.records("t") == []
