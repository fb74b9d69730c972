"""Partitions that end without a record: after a transaction's control record, or after compaction or retention."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from filemill.adapters.kafka import reader
from filemill.adapters.kafka.errors import KafkaErrorCode
from filemill.adapters.kafka.reader import messages_to_end, read_topic
from filemill.adapters.kafka.topic_browser import BrowseQuery, browse
from filemill.config.settings import Settings
from filemill.domain.messages import encode
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill.services.offset_reset import ResetTarget
from tests.integration import topics
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import wait_until
from tests.servers import RunningServers

# Far below the time that a reader waits for a silent broker.
IMMEDIATE_SECONDS = 10.0
PATIENCE_SECONDS = 30.0


@pytest.fixture
def harness(servers: RunningServers, tmp_path: Path) -> Iterator[PipelineHarness]:
    with open_harness(servers, tmp_path) as made:
        yield made


@contextmanager
def transaction(settings: Settings, topic: str, partition: int, values: list[bytes]) -> Iterator[Producer]:
    """Records of an open transaction, on the broker."""
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "transactional.id": f"{topic}-{partition}"})
    producer.init_transactions(PATIENCE_SECONDS)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=partition)
    producer.flush(PATIENCE_SECONDS)
    yield producer


def publish_in_a_transaction(settings: Settings, topic: str, partition: int, values: list[bytes]) -> None:
    with transaction(settings, topic, partition, values) as producer:
        producer.commit_transaction(PATIENCE_SECONDS)


def lags(harness: PipelineHarness) -> list[int | None]:
    settings = harness.settings
    return [part.lag for part in bootstrap.kafka_admin(settings).offsets(settings.kafka_group, settings.topic_create)]


def test_the_lag_of_a_partition_that_ends_with_a_control_record_becomes_zero(harness: PipelineHarness) -> None:
    harness.start("processor", "sync")
    requests = harness.insert_rows(3)
    publish_in_a_transaction(harness.settings, harness.settings.topic_create, 1, [encode(one) for one in requests])
    harness.wait_for(request.file_id for request in requests)
    wait_until(lambda: lags(harness) == [0, 0, 0], IMMEDIATE_SECONDS, "the lag is zero")
    assert topics.committed(harness.settings)[1].offset == 4, "three records and a control record"
    harness.assert_clean()


def test_a_control_record_after_the_commit_causes_no_lag(harness: PipelineHarness) -> None:
    processor, _ = harness.start("processor", "sync")
    ids = harness.publish_requests(0, 2)
    harness.wait_for(ids)
    processor.send_stop_signal()
    processor.wait_for_exit(PATIENCE_SECONDS)
    with transaction(harness.settings, harness.settings.topic_create, 0, [b"never counts"]) as producer:
        producer.abort_transaction(PATIENCE_SECONDS)
    assert lags(harness) == [2, 0, 0]
    harness.start("processor")
    wait_until(lambda: lags(harness) == [0, 0, 0], IMMEDIATE_SECONDS, "the lag is zero")


def test_every_reader_skips_a_control_record_at_once(harness: PipelineHarness) -> None:
    settings, admin = harness.settings, bootstrap.kafka_admin(harness.settings)
    requests = harness.insert_rows(2)
    for topic in (settings.topic_create, settings.topic_created, settings.topic_dead_letters):
        publish_in_a_transaction(settings, topic, 0, [encode(one) for one in requests])
    began = time.monotonic()
    harness.verify()
    operations = bootstrap.operations(settings, harness.engine)
    plan = bootstrap.offset_reset(settings, harness.engine, admin=admin, file_operations=operations).plan(
        ResetTarget("latest")
    )
    query = BrowseQuery(settings.topic_create, None, None, "", 10)
    result = browse(settings, admin.offsets(None, settings.topic_create), query)
    assert time.monotonic() - began < IMMEDIATE_SECONDS
    assert plan.skipped == [request.file_id for request in requests]
    assert [record.offset for record in result.records] == [1, 0]


def test_an_open_transaction_is_not_read_and_causes_no_lag(harness: PipelineHarness) -> None:
    settings, admin = harness.settings, bootstrap.kafka_admin(harness.settings)
    topic = settings.topic_create
    topics.publish(settings, topic, [b"before"], partition=2)
    with transaction(settings, topic, 2, [b"open"]) as producer:
        topics.publish(settings, topic, [b"after"], partition=2)
        partitions = admin.offsets(settings.kafka_group, topic)
        assert (partitions[2].end, partitions[2].lag) == (1, 1)
        assert [record.value for record in read_topic(settings, topic, partitions, "test")] == [b"before"]
        # Also if the requested end lies beyond.
        found = messages_to_end(settings, topic, {2: 0}, {2: 3}, "test")
        assert [message.value() for message in found] == [b"before"]
        producer.commit_transaction(PATIENCE_SECONDS)
    wait_until(lambda: admin.offsets(None, topic)[2].end == 4, PATIENCE_SECONDS, "the transaction is over")
    values = [record.value for record in read_topic(settings, topic, admin.offsets(None, topic), "test")]
    assert values == [b"before", b"open", b"after"]


def test_records_deleted_during_a_read_do_not_block_the_reader(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, topic = harness.settings, harness.settings.topic_create
    monkeypatch.setattr(reader, "READ_RECORDS", 2)
    topics.publish(settings, topic, [b"x" * 400_000] * 12, partition=0)
    few = {"fetch.message.max.bytes": 400_000, "queued.max.messages.kbytes": 400}
    began = time.monotonic()
    with closing(messages_to_end(settings, topic, {0: 0}, {0: 12}, "test", **few)) as found:
        assert next(found).offset() == 0
        topics.delete_before(settings, topic, 0, 12)
        seen = [message.offset() for message in found]
    assert len(seen) < 11
    assert time.monotonic() - began < IMMEDIATE_SECONDS


def test_records_deleted_before_a_read_are_not_awaited(harness: PipelineHarness) -> None:
    settings, topic = harness.settings, harness.settings.topic_create
    topics.publish(settings, topic, [b"1", b"2", b"3"], partition=0)
    partitions = bootstrap.kafka_admin(settings).offsets(None, topic)
    topics.delete_before(settings, topic, 0, 3)
    began = time.monotonic()
    assert list(read_topic(settings, topic, partitions, "test")) == []
    assert time.monotonic() - began < IMMEDIATE_SECONDS


def test_a_topic_deleted_during_a_read_is_reported(harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, topic = harness.settings, harness.settings.topic_progress
    monkeypatch.setattr(reader, "READ_RECORDS", 2)
    topics.publish(settings, topic, [b"x" * 400_000] * 12, partition=0)
    few = {"fetch.message.max.bytes": 400_000, "queued.max.messages.kbytes": 400}
    with closing(messages_to_end(settings, topic, {0: 0}, {0: 12}, "test", **few)) as found:
        assert next(found).offset() == 0
        topics.delete_topic(settings, topic)
        with pytest.raises(Unavailable) as caught:
            list(found)
        assert caught.value.code == KafkaErrorCode.UNKNOWN_TOPIC
