"""Wiring of commands that need Kafka only. Imports no other driver, so such a command starts within half a second."""

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.config.settings import Settings


def kafka_admin(settings: Settings) -> KafkaAdmin:
    """Kafka's administration. The client connects at once."""
    return KafkaAdmin(settings)
