"""Identities of topics: a name may be reused for another topic, an id is not."""

from collections.abc import Collection
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from filemill.adapters.kafka.client import client_config, kafka_errors, new_client
from filemill.config.settings import Settings
from filemill.domain.records import TopicIdentity


class TopicIdentities:
    """Asks the broker for the identities of topics, over one connection that the first call opens. Any thread."""

    def __init__(self, settings: Settings, role: str) -> None:
        self._settings = settings
        self._role = role
        self._client: AdminClient | None = None

    def __call__(self, topics: Collection[str]) -> dict[str, TopicIdentity]:
        """The identities of those of the topics that exist. Raises Unavailable."""
        if self._client is None:
            self._client = new_client(AdminClient, client_config(self._settings, self._role))
        timeout = self._settings.server_timeout_seconds
        found = {}
        with kafka_errors(self._settings):
            # A broker at the same address may belong to another cluster.
            metadata: Any = self._client.list_topics(timeout=timeout)
            cluster_id = metadata.cluster_id or ""
            asked = self._client.describe_topics(TopicCollection(sorted(topics)), request_timeout=timeout)
            for topic, future in asked.items():
                try:
                    described = future.result()
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise
                else:
                    found[topic] = TopicIdentity(str(described.topic_id), cluster_id, len(described.partitions))
        return found
