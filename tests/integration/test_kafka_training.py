"""The training run of Kafka's class cache uses the broker as a pipeline does."""

from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from filemill.config.settings import Settings
from filemill_infra.embedded.errors import CancelledError
from filemill_infra.embedded.ports import PortAllocator
from filemill_infra.embedded.processes.commands import ServerContext
from filemill_infra.embedded.servers import kafka_training

TIMEOUT_SECONDS = 20.0


def test_the_training_produces_consumes_and_commits(settings: Settings, tmp_path: Path) -> None:
    context = ServerContext(home=tmp_path, ports=PortAllocator(tmp_path, defaults=False))
    topic = kafka_training.TOPIC
    try:
        kafka_training.use_broker(settings.kafka_broker, context)
        reader = Consumer({"bootstrap.servers": settings.kafka_broker, "group.id": topic})
        partitions = [TopicPartition(topic, number) for number in range(kafka_training.PARTITIONS)]
        committed = reader.committed(partitions, timeout=TIMEOUT_SECONDS)
        reader.close()
        assert sum(max(0, part.offset) for part in committed) >= kafka_training.RECORDS
    finally:
        admin = AdminClient({"bootstrap.servers": settings.kafka_broker})
        admin.delete_topics([topic])[topic].result(TIMEOUT_SECONDS)


def test_a_cancelled_start_ends_the_training(tmp_path: Path) -> None:
    context = ServerContext(home=tmp_path, ports=PortAllocator(tmp_path, defaults=False))
    context.cancelled.set()
    with pytest.raises(CancelledError):
        kafka_training.use_broker("127.0.0.1:1", context)
