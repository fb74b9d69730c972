"""The broker sets the timestamps of our topics, also of topics that another program created."""

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from filemill.adapters.kafka.admin import all_topics
from filemill.adapters.kafka.client import client_config
from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from filemill.entrypoints.doctor import _kafka
from tests.integration.processes import wait_until


def renamed(settings: Settings) -> Settings:
    """Settings of topics that do not exist yet."""
    names = [name for name in type(settings).model_fields if name.startswith("topic_")]
    texts = {name: value for name in names if isinstance(value := getattr(settings, name), str)}
    return settings.model_copy(update={name: f"later.{value}" for name, value in texts.items()})


def test_prepare_sets_all_topics_to_broker_timestamps(settings: Settings) -> None:
    later = renamed(settings)
    admin = bootstrap.kafka_admin(later)
    foreign = NewTopic(later.topic_created, num_partitions=3, replication_factor=1)
    client = AdminClient(client_config(later, "test"))
    client.create_topics([foreign])[later.topic_created].result()
    wait_until(lambda: later.topic_created in admin.topic_partitions(), 10, "the topic exists")
    admin.create_topics()
    wait_until(lambda: set(all_topics(later)) <= set(admin.topic_partitions()), 10, "the topics exist")
    assert admin.topics_with_producer_timestamps() == [later.topic_created]
    check = _kafka(later)
    assert check.ok is None
    assert later.topic_created in check.found
    assert "filemill prepare" in check.remedy

    bootstrap.prepare(later)
    wait_until(lambda: not admin.topics_with_producer_timestamps(), 10, "all have broker timestamps")
    assert _kafka(later).ok
