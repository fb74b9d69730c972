"""A record source of Kafka: a member of a consumer group."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from filemill.adapters.kafka.client import client_config, new_client
from filemill.adapters.kafka.reader import FETCH_BACKOFF_MILLISECONDS, read_records
from filemill.adapters.kafka.topics import TopicIdAnswer, TopicIdWatch
from filemill.config.settings import Settings
from filemill.domain.offsets import Commit, is_of_another_topic, topic_id_in
from filemill.domain.records import Record
from filemill.errors import MemberExpelled
from filemill.ports import RebalanceListener

log = structlog.get_logger("kafka")

FETCHED_AHEAD_RECORDS = 1000
FETCH_BYTES = 256 * 1024  # per partition and request; a larger record comes alone
# An assignment waits at most this long for the topic id. Without it, reading continues at the committed offsets.
TOPIC_ID_SECONDS = 2.0
# `close` waits at most this long for the thread that asks for the topic id.
WATCH_CLOSE_SECONDS = 1.0


def group_config(settings: Settings) -> dict[str, Any]:
    """The client properties of a group protocol.

    Under `consumer` the broker sets session and heartbeat times, and the client rejects them. The embedded and
    composed brokers have the same values, so that protocols are compared, not defaults.
    """
    # A static member that comes back within its session gets its partitions again.
    static = {"group.instance.id": settings.worker_id} if settings.static_membership else {}
    if settings.group_protocol == "consumer":
        return {"group.protocol": "consumer", "group.remote.assignor": "uniform", **static}
    strategy = {"classic-eager": "roundrobin", "classic-cooperative": "cooperative-sticky"}[settings.group_protocol]
    return {
        "group.protocol": "classic",
        "partition.assignment.strategy": strategy,
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": settings.heartbeat_interval_ms,
        **static,
    }


class KafkaRecordSource:
    """A member of the processors' group that reads one topic. (port: RecordSource).

    All calls, including those of the listener, happen on one thread.
    """

    def __init__(self, settings: Settings, topic: str, listener: RebalanceListener) -> None:
        """Join. Raises InvalidSettings."""
        self._settings = settings
        self._topic = topic
        self._listener = listener
        self._eager = settings.group_protocol == "classic-eager"
        self._topic_ids: dict[int, str] = {}  # by assigned partition: the topic that its position belongs to
        self._question = 0  # answers to earlier questions do not apply to the present assignment
        self._checked: TopicIdAnswer | None = None
        self._closed = False
        self._committing: Mapping[int, Commit] | None = None
        self._on_done: Callable[[Mapping[int, Commit]], None] | None = None
        self._consumer = new_client(
            Consumer,
            client_config(
                settings,
                "processor",
                **group_config(settings),
                **{
                    "group.id": settings.group_id,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    # `latest` would skip records if the committed offset does not exist any more.
                    "auto.offset.reset": "earliest",
                    "max.poll.interval.ms": settings.max_poll_interval_ms,
                    # A pause drops the prefetched records, so their number is kept small.
                    "queued.min.messages": FETCHED_AHEAD_RECORDS,
                    "fetch.queue.backoff.ms": FETCH_BACKOFF_MILLISECONDS,
                    "max.partition.fetch.bytes": FETCH_BYTES,
                    "on_commit": self._committed,
                },
            ),
        )
        self._watch = TopicIdWatch(settings, topic)
        self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def topic_id(self, partition: int) -> str:
        """The id of the topic that an assigned partition is read from."""
        return self._topic_ids.get(partition, "")

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Wait for a first record, then take what the client has prefetched."""
        records = read_records(self._consumer, self._settings, limit, seconds)
        self._check_topic()
        return records

    def _check_topic(self) -> None:
        """Leave the group if the topic is not the one that the positions belong to. Raises MemberExpelled then.

        The client would keep its positions, and under the classic protocol nothing else reports a recreated topic. A
        new member begins with the broker's state.
        """
        answer = self._watch.answer
        if answer is self._checked or not answer.topic_id or answer.question < self._question:
            return
        self._checked = answer
        if set(self._topic_ids.values()) - {"", answer.topic_id}:
            log.warning("Topic recreated: reading from the beginning", topic=self._topic, topic_id=answer.topic_id)
            self.close()  # records in progress may be finished; their commits name the former topic
            raise MemberExpelled(f"{self._topic} was deleted and recreated")
        self._topic_ids = dict.fromkeys(self._topic_ids, answer.topic_id)

    def pause(self, partitions: Sequence[int]) -> None:
        """Stop reading these partitions."""
        self._consumer.pause(self._named(partitions))

    def resume(self, partitions: Sequence[int]) -> None:
        """Read these partitions again."""
        self._consumer.resume(self._named(partitions))

    def positions(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """The next offsets, after control records of transactions. The client knows them without asking the broker."""
        found = self._consumer.position(self._named(partitions))
        return {part.partition: part.offset for part in found if part.error is None and part.offset >= 0}

    def commit_async(self, commits: Mapping[int, Commit], on_done: Callable[[Mapping[int, Commit]], None]) -> None:
        """Commit without waiting. The caller must wait for `on_done` before the next call."""
        assert self._committing is None, "a commit is in progress"
        self._committing, self._on_done = dict(commits), on_done
        try:
            self._consumer.commit(offsets=self._offsets(commits), asynchronous=True)
        except KafkaException as error:
            log.warning("Commit failed", error=str(error))
            self._finish_commit({})

    def commit_sync(self, commits: Mapping[int, Commit], seconds: float) -> Mapping[int, Commit]:
        """Commit and wait. librdkafka limits the wait by its socket timeout."""
        del seconds
        try:
            taken = self._consumer.commit(offsets=self._offsets(commits), asynchronous=False)
        except KafkaException as error:
            log.warning("Commit failed", partitions=sorted(commits), error=str(error))
            return {}
        return {part.partition: commits[part.partition] for part in taken if part.error is None}

    def close(self) -> None:
        """Leave the group."""
        if not self._closed:
            self._closed = True
            self._watch.stop()
            self._consumer.close()
            self._watch.join(WATCH_CLOSE_SECONDS)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            known = consumer.committed(partitions, timeout=self._settings.server_timeout_seconds)
        except KafkaException as error:
            # Without the metadata some finished records are reprocessed; nothing is lost.
            log.warning("Committed offsets unknown", error=str(error))
            known = [TopicPartition(part.topic, part.partition, OFFSET_INVALID) for part in partitions]
        known = self._of_this_topic(known)
        if self._eager:
            consumer.assign(known)
        else:
            consumer.incremental_assign(known)
        consumer.resume(known)
        self._listener.on_assigned(
            {
                part.partition: (
                    part.offset if part.error is None and part.offset >= 0 else OFFSET_INVALID,
                    part.metadata or "",
                )
                for part in known
            }
        )

    def _of_this_topic(self, known: list[TopicPartition]) -> list[TopicPartition]:
        """The commits; the beginning for a partition whose commit belongs to another topic.

        The topic id is asked for after the commits and before the first read, so it is never newer than the topic that
        is read. If it is older, a later answer shows that.
        """
        answer = self._watch.ask(min(TOPIC_ID_SECONDS, self._settings.server_timeout_seconds))
        self._question = answer.question
        if not answer.topic_id:
            log.warning("Topic id unknown: reading continues at the committed offsets", topic=self._topic)
            self._topic_ids |= {part.partition: topic_id_in(part.metadata) for part in known}
            return known
        self._topic_ids |= {part.partition: answer.topic_id for part in known}
        others = {part.partition for part in known if is_of_another_topic(part.metadata, answer.topic_id)}
        if others:
            log.warning(
                "Committed offsets belong to another topic of this name: reading from the beginning",
                topic=self._topic,
                topic_id=answer.topic_id,
                partitions=sorted(others),
            )
        return [
            TopicPartition(part.topic, part.partition, OFFSET_BEGINNING) if part.partition in others else part
            for part in known
        ]

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._listener.on_revoked([part.partition for part in partitions])
        self._forget(partitions)

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._listener.on_lost([part.partition for part in partitions])
        self._forget(partitions)

    def _forget(self, partitions: list[TopicPartition]) -> None:
        for part in partitions:
            self._topic_ids.pop(part.partition, None)

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        if self._committing is None:
            return  # the result of a commit_sync, which its caller has
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
