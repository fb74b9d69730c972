"""Administration of Kafka: topics, consumer groups and their offsets."""

import contextlib
import enum
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from filemill.adapters.kafka.client import MESSAGE_MAX_BYTES, client_config, kafka_errors, new_client, to_exception
from filemill.adapters.kafka.errors import KafkaErrorCode, classify
from filemill.adapters.kafka.topics import TopicIdentities
from filemill.config.settings import Settings
from filemill.domain.consumer_groups import GroupDescription, LogOffsets, MemberDescription
from filemill.domain.offsets import encode_metadata, is_of_another_topic, topic_id_in
from filemill.domain.records import TopicIdentity
from filemill.errors import Conflict, Unavailable

# The broker sets the timestamps: a producer's may be wrong or forged, and retention depends on them.
TIMESTAMP_TYPE, LOG_APPEND_TIME = "message.timestamp.type", "LogAppendTime"
_DAY_MILLISECONDS = 86_400_000
# The broker's errors for a commit from outside while the group has members, by the group's protocol.
_GROUP_HAS_MEMBERS = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.FENCED_MEMBER_EPOCH,
}
# How often a coordinator that is loading is asked again.
_RETRY_SECONDS = 0.1


class AdminConflict(enum.StrEnum):
    """Why Kafka's state does not allow an operation."""

    UNKNOWN_TOPIC = "unknown-topic"
    NOT_MORE_PARTITIONS = "not-more-partitions"
    GROUP_HAS_MEMBERS = "group-has-members"


def all_topics(settings: Settings) -> list[str]:
    """The topics of the pipeline."""
    return list(settings.pipeline_names.topics)


class KafkaAdmin:
    """Reads and changes topics, groups and offsets. Every method raises Unavailable if Kafka does not serve it.

    A client is replaced after a failed request. After a broker was suspended and killed, an old client can time out for
    ever, or end the process (librdkafka 2.16, an assertion in rd_kafka_enq_once_del_source_return). Any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = settings.server_timeout_seconds
        self._client: AdminClient | None = self._new_client()
        self._readers: dict[str, Consumer] = {}
        self._identities = TopicIdentities(settings, "admin")
        # The same as the consumers', or an end could be an offset that no consumer reaches.
        uncommitted = settings.kafka_properties.get("isolation.level") == "read_uncommitted"
        self._isolation = IsolationLevel.READ_UNCOMMITTED if uncommitted else IsolationLevel.READ_COMMITTED

    def topic_partitions(self) -> dict[str, int]:
        """The number of partitions of each topic of the cluster."""
        with self._requesting() as client:
            topics = client.list_topics(timeout=self._timeout).topics
        return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}

    def identities(self, topics: Collection[str]) -> dict[str, TopicIdentity]:
        """The identities of the topics that exist: a recreated topic has another identity."""
        return self._identities(topics)

    def create_topics(self) -> list[str]:
        """Create the missing topics of the pipeline; returns their names."""
        existing = self.topic_partitions()
        missing = [name for name in all_topics(self._settings) if name not in existing]
        if not missing:
            return []
        wanted = [self._new_topic(name) for name in missing]
        created = []
        with self._requesting() as client:
            for name, future in client.create_topics(wanted, operation_timeout=self._timeout).items():
                try:
                    future.result()
                    created.append(name)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process created it
                        raise
        return created

    def topics_with_producer_timestamps(self) -> list[str]:
        """The existing topics of the pipeline that keep the producers' timestamps."""
        existing = self.topic_partitions()
        asked = [ConfigResource(ResourceType.TOPIC, name) for name in all_topics(self._settings) if name in existing]
        if not asked:
            return []
        with self._requesting() as client:
            found = client.describe_configs(asked, request_timeout=self._timeout)
            return [
                asked.name
                for asked, future in found.items()
                if future.result()[TIMESTAMP_TYPE].value != LOG_APPEND_TIME
            ]

    def use_broker_timestamps(self, topics: Sequence[str]) -> None:
        """Set these topics to timestamps of the broker, for records from now on."""
        entry = ConfigEntry(TIMESTAMP_TYPE, LOG_APPEND_TIME, incremental_operation=AlterConfigOpType.SET)
        wanted = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry]) for name in topics]
        if wanted:
            with self._requesting() as client:
                for future in client.incremental_alter_configs(wanted, request_timeout=self._timeout).values():
                    future.result()

    def _new_topic(self, name: str) -> NewTopic:
        config = {
            "retention.ms": str(self._settings.topic_retention_days * _DAY_MILLISECONDS),
            TIMESTAMP_TYPE: LOG_APPEND_TIME,
        }
        if name == self._settings.topic_dead_letters:
            config["max.message.bytes"] = str(MESSAGE_MAX_BYTES)
        return NewTopic(
            name,
            num_partitions=self._settings.topic_partitions,
            replication_factor=self._settings.topic_replication_factor,
            config=config,
        )

    def add_partitions(self, topic: str, total: int) -> None:
        """Raise the number of a topic's partitions. Raises Conflict if `total` is not more than it has."""
        existing = self.topic_partitions().get(topic)
        if existing is None:
            raise Conflict(f"there is no topic {topic!r}", AdminConflict.UNKNOWN_TOPIC)
        if total <= existing:
            reason = f"{topic} has {existing} partitions already; Kafka can only add partitions"
            raise Conflict(reason, AdminConflict.NOT_MORE_PARTITIONS)
        with self._requesting() as client:
            client.create_partitions([NewPartitions(topic, total)], operation_timeout=self._timeout)[topic].result()

    def describe_group(self, group: str, topic: str) -> GroupDescription:
        """State, members and assignment of a group. A group that does not exist is `DEAD` without members.

        Waits for a coordinator that is still loading the group, as long as for a response.
        """
        deadline = time.monotonic() + self._timeout
        found: Any = None
        while found is None:
            with self._requesting() as client:
                try:
                    found = client.describe_consumer_groups([group], request_timeout=self._timeout)[group].result()
                except KafkaException as error:
                    cause = error.args[0]
                    if cause.code() == KafkaError.GROUP_ID_NOT_FOUND:
                        return GroupDescription("DEAD", None, None, [])
                    loading = classify(cause).code is KafkaErrorCode.COORDINATOR_LOADING
                    if not loading or time.monotonic() > deadline:
                        raise
                    time.sleep(_RETRY_SECONDS)
        kind = getattr(found, "type", None)
        members = [
            MemberDescription(
                member.member_id,
                member.client_id,
                member.host.lstrip("/"),
                sorted(part.partition for part in member.assignment.topic_partitions if part.topic == topic)
                if member.assignment
                else [],
            )
            for member in found.members
        ]
        protocol = kind.name.lower() if kind is not None and kind.name != "UNKNOWN" else None
        return GroupDescription(
            found.state.name, protocol, found.partition_assignor or None, sorted(members, key=lambda m: m.client_id)
        )

    def offsets(self, group: str | None, topic: str) -> list[LogOffsets]:
        """Begin, end and committed offset of each partition of a topic; without a group, no committed offsets.

        The end is the end of the readable records: an open transaction and everything after it lie beyond. A commit
        that names another topic id than the topic has now is ignored, as the group's members ignore it.
        """
        count = self.topic_partitions().get(topic, 0)
        parts = [TopicPartition(topic, number) for number in range(count)]
        if not parts:
            return []
        begins = self._log_offsets(parts, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        ends = self._log_offsets(parts, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        committed = self._committed(group, topic, parts) if group is not None else {}
        if any(offset > ends.get(number, offset) for number, offset in committed.items()):
            # A group that reads uncommitted records may be beyond that end; it has no lag.
            whole = self._log_offsets(parts, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]
            within = {number for number, offset in committed.items() if offset <= whole.get(number, 0)}
            ends |= {number: max(ends[number], committed[number]) for number in within & ends.keys()}
        return [
            LogOffsets(
                number, begins.get(number), ends.get(number), committed.get(number), committed_known=group is not None
            )
            for number in range(count)
        ]

    def high_watermarks(self, topic: str) -> dict[int, int]:
        """The offset after the last record of each partition, including records of open transactions."""
        parts = [TopicPartition(topic, number) for number in range(self.topic_partitions().get(topic, 0))]
        if not parts:
            return {}
        return self._log_offsets(parts, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]

    def offsets_at(self, topic: str, milliseconds: int) -> dict[int, int]:
        """The first offset of each partition with a timestamp of at least `milliseconds` since 1970, or its end."""
        parts = [TopicPartition(topic, number) for number in range(self.topic_partitions().get(topic, 0))]
        if not parts:
            return {}
        found = self._log_offsets(parts, OffsetSpec.for_timestamp(milliseconds))
        ends = self._log_offsets(parts, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return {number: offset if offset >= 0 else ends[number] for number, offset in found.items()}

    def alter_offsets(self, group: str, topic: str, offsets: Mapping[int, int], topic_id: str = "") -> None:
        """Commit these offsets in a group without members. Raises Conflict if the group has members.

        By a consumer that never joins, for the reason given in `_committed`. The metadata of the previous commits,
        which lists records finished beyond the offset, is lost. `topic_id` is the id of the topic that the offsets
        belong to. If another topic has the name by then, the group's members ignore the commit.
        """
        parts = [
            TopicPartition(topic, number, offset, encode_metadata("", 0, offset, [], topic_id))
            for number, offset in sorted(offsets.items())
        ]
        try:
            taken = self._reader(group).commit(offsets=parts, asynchronous=False)
            errors = [part.error for part in taken if part.error is not None]
        except KafkaException as error:
            errors = [error.args[0]]
        for found in errors:
            if found.code() in _GROUP_HAS_MEMBERS:
                reason = f"Kafka does not change the offsets of {group} while the group has members"
                raise Conflict(reason, AdminConflict.GROUP_HAS_MEMBERS)
            raise to_exception(self._settings, found)

    def _log_offsets(
        self, parts: Sequence[TopicPartition], spec: OffsetSpec, isolation: IsolationLevel | None = None
    ) -> dict[int, int]:
        with self._requesting() as client:
            asked = client.list_offsets(
                dict.fromkeys(parts, spec), request_timeout=self._timeout, isolation_level=isolation or self._isolation
            )
            return {part.partition: future.result().offset for part, future in asked.items()}

    def _committed(self, group: str, topic: str, parts: Sequence[TopicPartition]) -> dict[int, int]:
        """The group's committed offsets, read by a consumer that never joins.

        `AdminClient.list_consumer_group_offsets` is not used: with confluent-kafka 2.16 a response with an error of
        the group, as during a rebalance, crashes the process. librdkafka then uses a consumer that an admin client
        does not have (SIGSEGV in rd_kafka_cgrp_op, below rd_kafka_ListConsumerGroupOffsetsResponse_parse).
        """
        try:
            with kafka_errors(self._settings):
                found = self._reader(group).committed(list(parts), timeout=self._timeout)
                for part in found:
                    if part.error is not None:
                        raise KafkaException(part.error)
        except Unavailable:
            self._readers.pop(group, None)
            raise
        named = any(topic_id_in(part.metadata) for part in found)
        topic_id = self._identities.topic_id(topic) if named else ""
        return {
            part.partition: part.offset
            for part in found
            if part.offset >= 0 and not is_of_another_topic(part.metadata, topic_id)
        }

    def _reader(self, group: str) -> Consumer:
        reader = self._readers.get(group)
        if reader is None:
            config = client_config(self._settings, "admin", **{"group.id": group, "enable.auto.commit": False})
            reader = self._readers[group] = new_client(Consumer, config)
        return reader

    def _new_client(self) -> AdminClient:
        return new_client(AdminClient, client_config(self._settings, "admin"))

    @contextlib.contextmanager
    def _requesting(self) -> Iterator[AdminClient]:
        """The client for the requests of a block, which stays alive until their end. Raises Unavailable."""
        client = self._client
        if client is None:
            client = self._client = self._new_client()
        try:
            with kafka_errors(self._settings, client):
                yield client
        except Unavailable:
            self._client = None
            raise
