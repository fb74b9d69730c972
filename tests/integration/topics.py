"""Access to Kafka by its plain client, so that tests do not depend on the code under test."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from filemill.adapters.kafka.admin import all_topics
from filemill.config.settings import Settings

OWNERS_SECONDS = 5.0
# A broker that has just started creates the group coordinator at the first request.
NO_GROUP_YET = {
    KafkaError.GROUP_ID_NOT_FOUND,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError._TIMED_OUT,
}
# The configuration of a topic whose records keep any timestamp of their producer, as in topics of other programs.
PRODUCERS_TIMESTAMPS = {
    "message.timestamp.type": "CreateTime",
    "message.timestamp.after.max.ms": str(2**63 - 1),
    "message.timestamp.before.max.ms": str(2**63 - 1),
}
READ_SECONDS = 20.0
POLL_SECONDS = 0.05


class TopicRecord(NamedTuple):
    """A record as any consumer reads it. `at` is its timestamp in seconds."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    at: float


def publish(settings: Settings, topic: str, values: Sequence[bytes | None], **options: Any) -> list[int]:
    """Produce values and wait for the acknowledgements; returns the offsets. `options`: partition, headers, key."""
    offsets: list[int] = []

    def on_delivery(error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        offsets.append(message.offset() or 0)

    producer = Producer({"bootstrap.servers": settings.kafka_broker, "linger.ms": 0})
    for value in values:
        producer.produce(topic, value, on_delivery=on_delivery, **options)
    left = producer.flush(READ_SECONDS)
    assert not left, f"{left} records were not acknowledged"
    return offsets


def keep_producers_timestamps(settings: Settings) -> None:
    """Give all topics the configuration `PRODUCERS_TIMESTAMPS`.

    The broker applies it a moment later. Where every record must have it, create a topic with it instead.
    """
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in PRODUCERS_TIMESTAMPS.items()
    ]
    resources = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries) for name in all_topics(settings)]
    admin = AdminClient({"bootstrap.servers": settings.kafka_broker})
    for future in admin.incremental_alter_configs(resources).values():
        future.result()


def read(settings: Settings, topic: str) -> list[TopicRecord]:
    """All records of a topic up to its current end, ordered by partition and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_broker,
            "group.id": "a-test-reads",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=READ_SECONDS).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        records: list[TopicRecord] = []
        ended: set[int | None] = set()
        deadline = time.monotonic() + READ_SECONDS
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline, f"{topic} was not read to its end in {READ_SECONDS:g} s"
            for message in consumer.consume(1000, timeout=0.2):
                error = message.error()
                if error is None:
                    records.append(
                        TopicRecord(
                            message.partition() or 0,
                            message.offset() or 0,
                            _bytes(message.key()),
                            message.value(),
                            _headers(message),
                            message.timestamp()[1] / 1000,
                        )
                    )
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise KafkaException(error)
        return sorted(records, key=lambda record: (record.partition, record.offset))
    finally:
        consumer.close()


def committed(settings: Settings) -> dict[int, TopicPartition]:
    """The group's committed offsets on `file.create` by partition; partitions without one are left out."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_broker, "group.id": settings.kafka_group})
    try:
        known = consumer.list_topics(settings.topic_create, timeout=READ_SECONDS).topics[settings.topic_create]
        parts = [TopicPartition(settings.topic_create, number) for number in known.partitions]
        found = consumer.committed(parts, timeout=READ_SECONDS)
        return {part.partition: part for part in found if part.offset >= 0}
    finally:
        consumer.close()


def commit(settings: Settings, partition: int, offset: int, metadata: str = "") -> None:
    """Commit for the group from outside; Kafka accepts it only while the group has no members."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_broker, "group.id": settings.kafka_group})
    try:
        part = TopicPartition(settings.topic_create, partition, offset, metadata)
        results = consumer.commit(offsets=[part], asynchronous=False)
        assert all(one.error is None for one in results), results
    finally:
        consumer.close()


def delete_before(settings: Settings, topic: str, partition: int, offset: int) -> None:
    """Delete records as retention does, so that the partition begins at `offset`."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_broker})
    for future in admin.delete_records([TopicPartition(topic, partition, offset)]).values():
        future.result()


def delete_topic(settings: Settings, topic: str) -> None:
    """Delete a topic, and wait until the broker has deleted it."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_broker})
    admin.delete_topics([topic], operation_timeout=READ_SECONDS)[topic].result()
    deadline = time.monotonic() + READ_SECONDS
    while topic in admin.list_topics(timeout=READ_SECONDS).topics:
        assert time.monotonic() < deadline, f"{topic} was not deleted"
        time.sleep(POLL_SECONDS)


def recreate_topic(settings: Settings, topic: str, partitions: int = 3) -> None:
    """Delete a topic and create one of the same name."""
    delete_topic(settings, topic)
    admin = AdminClient({"bootstrap.servers": settings.kafka_broker})
    deadline = time.monotonic() + READ_SECONDS
    while True:  # the deletion may not be complete
        try:
            admin.create_topics([NewTopic(topic, partitions, 1)], operation_timeout=READ_SECONDS)[topic].result()
            break
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
    while len(getattr(admin.list_topics(timeout=READ_SECONDS).topics.get(topic), "partitions", ())) != partitions:
        assert time.monotonic() < deadline, f"{topic} was not created"
        time.sleep(POLL_SECONDS)


def owners(settings: Settings) -> dict[str, list[int]]:
    """The partitions of `file.create` of each member of the group, by client id, according to the broker."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_broker})
    try:
        asked = admin.describe_consumer_groups([settings.kafka_group], request_timeout=OWNERS_SECONDS)
        group: Any = asked[settings.kafka_group].result()
    except KafkaException as error:
        if error.args[0].code() in NO_GROUP_YET:
            return {}
        raise
    return {
        member.client_id: sorted(part.partition for part in member.assignment.topic_partitions)
        for member in group.members
    }


def parse_timestamp(text: str) -> float:
    """The timestamp of a log line, in seconds since the epoch."""
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def _headers(message: Message) -> dict[str, bytes]:
    """The headers; none if a name is not UTF-8, which this client cannot read."""
    try:
        pairs: Any = message.headers() or []
        return dict(pairs)
    except UnicodeDecodeError:
        return {}


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
