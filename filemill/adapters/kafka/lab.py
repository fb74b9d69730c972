"""Administration of topics for the lab: what operators, retention or a restored cluster do to them.

Each call has a client of its own.
"""

import time
from collections.abc import Mapping

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.client import client_config, kafka_errors, new_client
from filemill.config.settings import Settings
from filemill.errors import Unavailable

RECREATE_SECONDS = 20.0
POLL_SECONDS = 0.1


def delete_records(settings: Settings, topic: str, before: Mapping[int, int]) -> None:
    """Delete the records below these offsets, by partition, as retention does. Raises Unavailable."""
    client = new_client(AdminClient, client_config(settings, "lab"))
    parts = [TopicPartition(topic, partition, offset) for partition, offset in before.items()]
    with kafka_errors(settings):
        for future in client.delete_records(parts, request_timeout=settings.server_timeout_seconds).values():
            future.result()


def recreate_topic(settings: Settings, topic: str) -> None:
    """Delete one of the pipeline's topics and create it again, empty. Raises Unavailable, TimeoutError."""
    admin = KafkaAdmin(settings)
    former = admin.identities([topic])[topic]
    client = new_client(AdminClient, client_config(settings, "lab"))
    with kafka_errors(settings):
        client.delete_topics([topic], operation_timeout=RECREATE_SECONDS)[topic].result()
    deadline = time.monotonic() + RECREATE_SECONDS
    while True:
        try:  # the broker may still be deleting it
            admin.create_topics()
            found = admin.identities([topic]).get(topic)
            if found is not None and found.topic_id != former.topic_id:
                return
        except (KafkaException, Unavailable):
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise TimeoutError(f"{topic} was not created again within {RECREATE_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
