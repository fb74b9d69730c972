"""Reads all partitions of some topics outside of any group, from positions that the caller keeps."""

from collections.abc import Mapping, Sequence

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from filemill.adapters.kafka.client import kafka_errors, new_client
from filemill.adapters.kafka.reader import read_records, reader_config
from filemill.adapters.kafka.topics import TopicIdentities
from filemill.config.settings import Settings
from filemill.domain.records import Record, TopicIdentity

log = structlog.get_logger("kafka")


class KafkaTopicReader:
    """Reads all partitions of some topics from positions that its caller keeps, outside of any group.

    `refresh` adds new partitions, and reads a recreated topic from its beginning. (port: TopicReader).
    """

    def __init__(self, settings: Settings, topics: Sequence[str], role: str, **properties: str | int) -> None:
        """`properties` are additional ones of the client."""
        self._settings = settings
        self._topics = topics
        self._assigned: dict[tuple[str, int], TopicIdentity] = {}
        self._identities = TopicIdentities(settings, role)
        self._consumer = new_client(Consumer, reader_config(settings, role, **properties))

    def identities(self) -> dict[str, TopicIdentity]:
        """The identities of the topics; one that does not exist is absent. Raises Unavailable."""
        return self._identities(self._topics)

    def refresh(
        self, positions: Mapping[tuple[str, int], int], identities: Mapping[str, TopicIdentity] | None = None
    ) -> None:
        """Read all partitions that exist: known ones continue, new ones begin at their position or at the beginning.

        `positions` belong to the topics with these `identities`; without identities the broker is asked. Raises
        Unavailable.
        """
        found = self.identities() if identities is None else identities
        existing = {(topic, number): one for topic, one in found.items() for number in range(one.partitions)}
        # A topic that is missing now may come back: its partitions stay until another topic has its name.
        gone = [key for key, one in self._assigned.items() if not one.is_same_topic(found.get(key[0], one))]
        if gone:
            log.warning("Topics were recreated: reading from their beginning", topics=sorted({key[0] for key in gone}))
            self._consumer.incremental_unassign([TopicPartition(*key) for key in gone])
            for key in gone:
                del self._assigned[key]
        new = sorted(existing.keys() - self._assigned.keys())
        if new:
            # Fetches the partitions' leaders now; otherwise the consumer starts to look for them a second later.
            with kafka_errors(self._settings):
                self._consumer.list_topics(timeout=self._settings.server_timeout_seconds)
            parts = [TopicPartition(*key, positions.get(key, OFFSET_BEGINNING)) for key in new]
            self._consumer.incremental_assign(parts)
            self._assigned |= {key: existing[key] for key in new}

    def ends(self) -> dict[tuple[str, int], int]:
        """The end offset of each partition that is read, asked of the broker. Raises Unavailable."""
        timeout = self._settings.server_timeout_seconds
        with kafka_errors(self._settings):
            return {
                (topic, number): self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=timeout)[1]
                for topic, number in self._assigned
            }

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Up to `limit` records; waits at most `seconds` for the first. Raises Unavailable."""
        return read_records(self._consumer, self._settings, limit, seconds)

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()
