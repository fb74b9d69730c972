"""A member of a consumer group, and a plain reader of all partitions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from filemill.adapters.kafka import client_config, headers_of, kafka_errors, unavailable
from filemill.offsets import Commit
from filemill.ports import RebalanceListener, Record
from filemill.settings import Settings

log = structlog.get_logger("kafka")

# Said by a client that lost the broker for a moment: it reconnects by itself.
_PASSING = {
    KafkaError._PARTITION_EOF,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
}


def group_config(settings: Settings) -> dict[str, Any]:
    """The properties that make up a group protocol.

    Session and heartbeat times are the broker's under `consumer` (the client refuses them); the embedded and composed
    brokers are set to the same values, or a comparison of protocols would compare defaults.
    """
    if settings.group_protocol == "consumer":
        return {"group.protocol": "consumer", "group.remote.assignor": "uniform"}
    strategy = {"classic-eager": "roundrobin", "classic-cooperative": "cooperative-sticky"}[settings.group_protocol]
    return {
        "group.protocol": "classic",
        "partition.assignment.strategy": strategy,
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": settings.heartbeat_interval_ms,
    }


class GroupMember:
    """A consumer of one topic in the processors' group. (port: RecordSource).

    All calls, and the listener's, happen on one thread.
    """

    def __init__(self, settings: Settings, topic: str, listener: RebalanceListener) -> None:
        self._settings = settings
        self._topic = topic
        self._listener = listener
        self._eager = settings.group_protocol == "classic-eager"
        self._committing: Mapping[int, Commit] | None = None
        self._on_done: Callable[[Mapping[int, Commit]], None] | None = None
        self._consumer = Consumer(
            client_config(
                settings,
                "processor",
                **group_config(settings),
                **{
                    "group.id": settings.kafka_group,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    # `latest` would skip data where an offset is gone.
                    "auto.offset.reset": "earliest",
                    "max.poll.interval.ms": settings.max_poll_interval_ms,
                    "on_commit": self._committed,
                },
            )
        )
        self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Wait for a first record, then take what the client has fetched already, without waiting to fill up."""
        with kafka_errors(self._settings):
            first = self._consumer.poll(seconds)
            if first is None:
                return []
            rest = self._consumer.consume(limit - 1, timeout=0) if limit > 1 else []
        return [record for message in [first, *rest] if (record := self._record(message)) is not None]

    def pause(self, partitions: Sequence[int]) -> None:
        """Read no more of these."""
        self._consumer.pause(self._named(partitions))

    def resume(self, partitions: Sequence[int]) -> None:
        """Read them again."""
        self._consumer.resume(self._named(partitions))

    def commit(self, commits: Mapping[int, Commit], on_done: Callable[[Mapping[int, Commit]], None]) -> None:
        """Commit without waiting. One call at a time: until `on_done`, another is an error of the caller."""
        assert self._committing is None, "a commit is under way"
        self._committing, self._on_done = dict(commits), on_done
        try:
            self._consumer.commit(offsets=self._offsets(commits), asynchronous=True)
        except KafkaException as error:
            log.warning("Commit refused", error=str(error))
            self._finish_commit({})

    def commit_now(self, commits: Mapping[int, Commit], seconds: float) -> Mapping[int, Commit]:
        """Commit and wait. librdkafka bounds the wait itself, by its socket timeout."""
        del seconds
        try:
            taken = self._consumer.commit(offsets=self._offsets(commits), asynchronous=False)
        except KafkaException as error:
            log.warning("Commit refused", partitions=sorted(commits), error=str(error))
            return {}
        return {part.partition: commits[part.partition] for part in taken if part.error is None}

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _record(self, message: Message) -> Record | None:
        error = message.error()
        if error is None:
            kind, stamp = message.timestamp()
            return Record(
                self._topic,
                _number(message.partition()),
                _number(message.offset()),
                message.value(),
                headers_of(message),
                stamp if kind != TIMESTAMP_NOT_AVAILABLE else 0,
            )
        if error.fatal() or error.code() not in _PASSING:
            raise unavailable(self._settings, error)
        return None

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            known = consumer.committed(partitions, timeout=self._settings.server_timeout_seconds)
        except KafkaException as error:
            # Without their metadata some finished work is done again; nothing is lost.
            log.warning("Committed offsets unknown", error=str(error))
            known = [TopicPartition(part.topic, part.partition, OFFSET_INVALID) for part in partitions]
        if self._eager:
            consumer.assign(known)
        else:
            consumer.incremental_assign(known)
        consumer.resume(known)
        self._listener.assigned(
            {
                part.partition: (part.offset if part.error is None else OFFSET_INVALID, part.metadata or "")
                for part in known
            }
        )

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._listener.revoked([part.partition for part in partitions])

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._listener.lost([part.partition for part in partitions])

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        if self._committing is None:
            return  # the answer to a commit_now: its caller has it
        if error is not None:
            log.warning("Commit failed", error=error.str())
            self._finish_commit({})
            return
        commits = self._committing
        self._finish_commit(
            {
                part.partition: commits[part.partition]
                for part in partitions
                if part.error is None and part.partition in commits
            }
        )

    def _finish_commit(self, taken: Mapping[int, Commit]) -> None:
        on_done, self._committing, self._on_done = self._on_done, None, None
        if on_done is not None:
            on_done(taken)

    def _offsets(self, commits: Mapping[int, Commit]) -> list[TopicPartition]:
        return [
            TopicPartition(self._topic, partition, commit.offset, commit.metadata)
            for partition, commit in commits.items()
        ]

    def _named(self, partitions: Sequence[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in partitions]


class TopicReader:
    """Reads all partitions of some topics from positions that its caller keeps; in no group's assignment.

    New partitions are taken up when `refresh` is called.
    """

    def __init__(self, settings: Settings, topics: Sequence[str], role: str) -> None:
        self._settings = settings
        self._topics = topics
        self._assigned: set[tuple[str, int]] = set()
        self._consumer = Consumer(
            client_config(
                settings,
                role,
                **{
                    "group.id": f"filemill-{role}",  # librdkafka wants one; nothing is ever committed under it
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "earliest",
                },
            )
        )

    def refresh(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Read all partitions that exist: known ones go on, new ones begin at their position, or at the beginning."""
        with kafka_errors(self._settings):
            found = self._consumer.list_topics(timeout=self._settings.server_timeout_seconds).topics
        existing = {(topic, number) for topic in self._topics if topic in found for number in found[topic].partitions}
        new = sorted(existing - self._assigned)
        if new:
            parts = [
                TopicPartition(topic, number, positions.get((topic, number), OFFSET_BEGINNING)) for topic, number in new
            ]
            self._consumer.incremental_assign(parts)
            self._assigned |= set(new)

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Up to `limit` records; waits `seconds` at most for the first."""
        with kafka_errors(self._settings):
            first = self._consumer.poll(seconds)
            if first is None:
                return []
            rest = self._consumer.consume(limit - 1, timeout=0) if limit > 1 else []
        records = []
        for message in [first, *rest]:
            error = message.error()
            if error is None:
                kind, stamp = message.timestamp()
                records.append(
                    Record(
                        message.topic() or "",
                        _number(message.partition()),
                        _number(message.offset()),
                        message.value(),
                        headers_of(message),
                        stamp if kind != TIMESTAMP_NOT_AVAILABLE else 0,
                    )
                )
            elif error.fatal() or error.code() not in _PASSING:
                raise unavailable(self._settings, error)
        return records

    def close(self) -> None:
        """Give up the connection."""
        self._consumer.close()


def _number(value: int | None) -> int:
    assert value is not None
    return value
