"""Errors of a real broker are reported with advice."""

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.client import KafkaPublisher, client_config
from filemill.adapters.kafka.errors import KafkaErrorCode
from filemill.config.settings import Settings
from filemill.errors import Unavailable
from filemill.ports import DeliveryReport


def test_too_many_replicas_are_reported_with_the_setting(settings: Settings) -> None:
    greedy = settings.model_copy(
        update={"topic_progress": f"{settings.topic_progress}-3", "topic_replication_factor": 3}
    )
    with pytest.raises(Unavailable, match=r"INVALID_REPLICATION_FACTOR.*FILEMILL_TOPIC_REPLICATION_FACTOR") as caught:
        KafkaAdmin(greedy).create_topics()
    assert caught.value.code == KafkaErrorCode.INVALID_TOPIC_CONFIG


def test_a_record_rejected_by_its_topic_says_what_to_check(settings: Settings) -> None:
    topic = f"{settings.topic_progress}-compacted"
    admin = AdminClient(client_config(settings, "test"))
    admin.create_topics([NewTopic(topic, 1, 1, config={"cleanup.policy": "compact"})])[topic].result(20)
    reports: list[DeliveryReport] = []
    publisher = KafkaPublisher(settings, "test")
    publisher.publish(topic, b"without a key", reports.append)
    assert publisher.flush(20) == 0
    (report,) = reports
    assert not report.too_large
    assert "cleanup.policy" in str(report.error)


def test_a_listener_with_another_protocol_is_unavailable(settings: Settings) -> None:
    properties = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "u",
        "sasl.password": "s3cret",
    }
    wrong = settings.model_copy(update={"kafka_properties": properties, "server_timeout_seconds": 2.0})
    with pytest.raises(Unavailable) as caught:
        KafkaAdmin(wrong).topic_partitions()
    assert settings.kafka_broker in str(caught.value)
    assert "s3cret" not in str(caught.value)
