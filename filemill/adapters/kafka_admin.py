"""Kafka's administration: topics, and what the broker says of a consumer group."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from filemill.adapters.kafka import MESSAGE_MAX_BYTES, client_config, kafka_errors, new_client, refusal
from filemill.adapters.kafka_topics import TopicIdentities
from filemill.offsets import encode_metadata, of_another_topic, topic_of
from filemill.ports import TopicIdentity
from filemill.settings import Settings

# Records are dated by the broker: a producer's clock may be wrong, or lie, and would also decide on retention.
TIMESTAMP_TYPE, BY_BROKER = "message.timestamp.type", "LogAppendTime"
_DAY_MILLISECONDS = 86_400_000
# What the broker answers to a commit from outside while the group has members, by the group's protocol.
_REFUSED = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.FENCED_MEMBER_EPOCH,
}


class Member(msgspec.Struct, frozen=True, rename="camel"):
    """A member of a group and what it owns of the topic."""

    member_id: str
    client_id: str
    host: str
    partitions: list[int]


class GroupDescription(msgspec.Struct, frozen=True):
    """A group as the broker sees it. `protocol` is classic, consumer, or None where it is unknown."""

    state: str
    protocol: str | None
    assignor: str | None
    members: list[Member]


class PartitionOffsets(msgspec.Struct, frozen=True):
    """Where a partition begins and ends, and what a group has committed. None: not known, or never committed.

    `committed_known`: whether the group was asked. Of a share group's offsets the client knows nothing.
    """

    partition: int
    begin: int | None
    end: int | None
    committed: int | None
    committed_known: bool = True

    @property
    def lag(self) -> int | None:
        """Offsets from the next record to read to the end; 0 for an emptied partition.

        What retention removed before it was committed is no lag: nobody can read it any more. With nothing committed,
        or something beyond the end (the topic was recreated, say), the group reads from the beginning.
        """
        if self.end is None or self.begin is None or not self.committed_known:
            return None
        return self.end - (self.begin if self.committed is None or self.beyond else max(self.begin, self.committed))

    @property
    def beyond(self) -> bool:
        """Whether the group has committed an offset that the partition does not have yet."""
        return None not in (self.committed, self.end) and (self.committed or 0) > (self.end or 0)

    @property
    def removed(self) -> int:
        """Offsets that retention removed before the group had committed them."""
        if self.begin is None or self.committed is None:
            return 0
        return max(0, self.begin - self.committed)


def all_topics(settings: Settings) -> list[str]:
    """The topics of the pipeline."""
    return [
        settings.topic_create,
        settings.topic_created,
        settings.topic_progress,
        settings.topic_dead_letters,
        settings.topic_worker_events,
        settings.topic_worker_commands,
    ]


class KafkaAdmin:
    """Questions to, and orders for, the cluster. Raises retry.Unavailable where it is away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = settings.server_timeout_seconds
        self._client = new_client(AdminClient, client_config(settings, "admin"))
        self._readers: dict[str, Consumer] = {}
        self._identities = TopicIdentities(settings, "admin")
        # The consumers' own, or an offset could be an end that none of them ever reaches.
        uncommitted = settings.kafka_properties.get("isolation.level") == "read_uncommitted"
        self._isolation = IsolationLevel.READ_UNCOMMITTED if uncommitted else IsolationLevel.READ_COMMITTED

    def topic_partitions(self) -> dict[str, int]:
        """Each topic of the cluster and how many partitions it has."""
        with kafka_errors(self._settings):
            topics = self._client.list_topics(timeout=self._timeout).topics
        return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}

    def identities(self, topics: Collection[str]) -> dict[str, TopicIdentity]:
        """Which topics have these names now: a name that was given to another topic has another identity."""
        return self._identities(topics)

    def create_topics(self) -> list[str]:
        """Create those of our topics that are missing; returns their names."""
        existing = self.topic_partitions()
        missing = [name for name in all_topics(self._settings) if name not in existing]
        if not missing:
            return []
        wanted = [self._new_topic(name) for name in missing]
        created = []
        for name, future in self._client.create_topics(wanted, operation_timeout=self._timeout).items():
            try:
                future.result()
                created.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody was quicker
                    raise refusal(self._settings, error) from None
        return created

    def topics_dated_by_producers(self) -> list[str]:
        """Those of our topics that exist and keep the timestamps of their producers. Raises retry.Unavailable."""
        existing = self.topic_partitions()
        asked = [ConfigResource(ResourceType.TOPIC, name) for name in all_topics(self._settings) if name in existing]
        if not asked:
            return []
        found = self._client.describe_configs(asked, request_timeout=self._timeout)
        with kafka_errors(self._settings):
            return [asked.name for asked, future in found.items() if future.result()[TIMESTAMP_TYPE].value != BY_BROKER]

    def date_by_broker(self, topics: Sequence[str]) -> None:
        """Have the broker date the records of these topics from now on. Raises retry.Unavailable."""
        entry = ConfigEntry(TIMESTAMP_TYPE, BY_BROKER, incremental_operation=AlterConfigOpType.SET)
        wanted = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry]) for name in topics]
        if wanted:
            with kafka_errors(self._settings):
                for future in self._client.incremental_alter_configs(wanted, request_timeout=self._timeout).values():
                    future.result()

    def _new_topic(self, name: str) -> NewTopic:
        config = {
            "retention.ms": str(self._settings.topic_retention_days * _DAY_MILLISECONDS),
            TIMESTAMP_TYPE: BY_BROKER,
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
        """Raise a topic's partitions to `total`. Raises ValueError where that is not more than it has."""
        existing = self.topic_partitions().get(topic)
        if existing is None:
            raise ValueError(f"there is no topic {topic!r}")
        if total <= existing:
            raise ValueError(f"{topic} has {existing} partitions; Kafka can only add some, so ask for more than that")
        with kafka_errors(self._settings):
            self._client.create_partitions([NewPartitions(topic, total)], operation_timeout=self._timeout)[
                topic
            ].result()

    def describe_group(self, group: str, topic: str) -> GroupDescription:
        """State, members and assignment of a group. One that does not exist is `DEAD` without members."""
        future = self._client.describe_consumer_groups([group], request_timeout=self._timeout)[group]
        try:
            found: Any = future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return GroupDescription("DEAD", None, None, [])
            with kafka_errors(self._settings):
                raise
        kind = getattr(found, "type", None)
        members = [
            Member(
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

    def offsets(self, group: str | None, topic: str) -> list[PartitionOffsets]:
        """Begin, end and committed offset of each partition of a topic; no group: what is committed is unknown.

        The end is that of what can be read: a transaction that is still open, and all after it, lies beyond it. A
        commit that names another topic's id than the topic has now does not count: the group's members ignore it.
        """
        count = self.topic_partitions().get(topic, 0)
        parts = [TopicPartition(topic, number) for number in range(count)]
        if not parts:
            return []
        begins = self._log_offsets(parts, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        ends = self._log_offsets(parts, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        committed = self._committed(group, topic, parts) if group is not None else {}
        if any(offset > ends.get(number, offset) for number, offset in committed.items()):
            # Somebody who reads open transactions may be beyond what others can read, and has no lag.
            whole = self._log_offsets(parts, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]
            within = {number for number, offset in committed.items() if offset <= whole.get(number, 0)}
            ends |= {number: max(ends[number], committed[number]) for number in within & ends.keys()}
        return [
            PartitionOffsets(
                number, begins.get(number), ends.get(number), committed.get(number), committed_known=group is not None
            )
            for number in range(count)
        ]

    def high_watermarks(self, topic: str) -> dict[int, int]:
        """The offset after the last record of each partition, those of open transactions included."""
        parts = [TopicPartition(topic, number) for number in range(self.topic_partitions().get(topic, 0))]
        if not parts:
            return {}
        return self._log_offsets(parts, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]

    def offsets_at(self, topic: str, milliseconds: int) -> dict[int, int]:
        """Of each partition the first offset whose record is not older than a moment (since 1970), or its end."""
        parts = [TopicPartition(topic, number) for number in range(self.topic_partitions().get(topic, 0))]
        if not parts:
            return {}
        found = self._log_offsets(parts, OffsetSpec.for_timestamp(milliseconds))
        ends = self._log_offsets(parts, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return {number: offset if offset >= 0 else ends[number] for number, offset in found.items()}

    def move_offsets(self, group: str, topic: str, offsets: Mapping[int, int], topic_id: str = "") -> None:
        """Commit these offsets in a group that has no members. Raises ValueError where the broker refuses.

        By a consumer that never joins, for the reason that `_committed` gives. What the commits before said of records
        finished beyond them is gone. `topic_id`: of the topic that the offsets are of. If another one gets its name
        before the broker has the commit, the group's members ignore the commit.
        """
        parts = [
            TopicPartition(topic, number, offset, encode_metadata("", 0, offset, [], topic_id))
            for number, offset in sorted(offsets.items())
        ]
        try:
            taken = self._reader(group).commit(offsets=parts, asynchronous=False)
            troubles = [part.error for part in taken if part.error is not None]
        except KafkaException as error:
            troubles = [error.args[0]]
        for trouble in troubles:
            if trouble.code() in _REFUSED:
                raise ValueError(f"Kafka refuses to move the offsets of {group} while the group has members")
            raise refusal(self._settings, trouble)

    def _log_offsets(
        self, parts: Sequence[TopicPartition], spec: OffsetSpec, isolation: IsolationLevel | None = None
    ) -> dict[int, int]:
        with kafka_errors(self._settings):
            asked = self._client.list_offsets(
                dict.fromkeys(parts, spec), request_timeout=self._timeout, isolation_level=isolation or self._isolation
            )
            return {part.partition: future.result().offset for part, future in asked.items()}

    def _committed(self, group: str, topic: str, parts: Sequence[TopicPartition]) -> dict[int, int]:
        """The group's commits, asked by a consumer that never joins.

        Not by `AdminClient.list_consumer_group_offsets`: with confluent-kafka 2.16 an answer that carries a group's
        error (as one does in a rebalance) ends the process, because librdkafka looks for a consumer that an admin
        client has not (SIGSEGV in rd_kafka_cgrp_op, below rd_kafka_ListConsumerGroupOffsetsResponse_parse).
        """
        with kafka_errors(self._settings):
            found = self._reader(group).committed(list(parts), timeout=self._timeout)
        for part in found:
            if part.error is not None:
                raise refusal(self._settings, part.error)
        named = any(topic_of(part.metadata) for part in found)
        topic_id = self._identities.topic_id(topic) if named else ""
        return {
            part.partition: part.offset
            for part in found
            if part.offset >= 0 and not of_another_topic(part.metadata, topic_id)
        }

    def _reader(self, group: str) -> Consumer:
        if group not in self._readers:
            config = client_config(self._settings, "admin", **{"group.id": group, "enable.auto.commit": False})
            self._readers[group] = new_client(Consumer, config)
        return self._readers[group]
