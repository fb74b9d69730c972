"""A member of a consumer group."""

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

from filemill.adapters.kafka import client_config, new_client
from filemill.adapters.kafka_reader import FETCH_BACKOFF_MILLISECONDS, read_records
from filemill.adapters.kafka_topics import Answer, TopicWatch
from filemill.offsets import Commit, of_another_topic, topic_of
from filemill.ports import RebalanceListener, Record
from filemill.retry import Expelled
from filemill.settings import Settings

log = structlog.get_logger("kafka")

FETCHED_AHEAD_RECORDS = 1000
FETCH_BYTES = 256 * 1024  # of a partition at once; a larger record comes alone
# An assignment waits so long for the topic's id; without it the partitions are read on from their commits.
LOOK_SECONDS = 2.0
# A question that is under way may take longer; nobody waits for its answer.
WATCH_CLOSE_SECONDS = 1.0


def group_config(settings: Settings) -> dict[str, Any]:
    """The properties that make up a group protocol.

    Session and heartbeat times are the broker's under `consumer` (the client refuses them); the embedded and composed
    brokers are set to the same values, or a comparison of protocols would compare defaults.
    """
    # The name that the broker knows a static member by: one that is back within its session gets its partitions again.
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


class GroupMember:
    """A consumer of one topic in the processors' group. (port: RecordSource).

    All calls, and the listener's, happen on one thread.
    """

    def __init__(self, settings: Settings, topic: str, listener: RebalanceListener) -> None:
        """Join. Raises InvalidSettings."""
        self._settings = settings
        self._topic = topic
        self._listener = listener
        self._eager = settings.group_protocol == "classic-eager"
        self._topic_ids: dict[int, str] = {}  # of each assigned partition: which topic its position is of
        self._looked = 0  # answers to earlier questions say nothing of what is assigned now
        self._checked: Answer | None = None
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
                    # `latest` would skip data where an offset is gone.
                    "auto.offset.reset": "earliest",
                    "max.poll.interval.ms": settings.max_poll_interval_ms,
                    # What it fetches ahead is dropped at a pause: no more of it than a fetch or two.
                    "queued.min.messages": FETCHED_AHEAD_RECORDS,
                    "fetch.queue.backoff.ms": FETCH_BACKOFF_MILLISECONDS,
                    "max.partition.fetch.bytes": FETCH_BYTES,
                    "on_commit": self._committed,
                },
            ),
        )
        self._watch = TopicWatch(settings, topic)
        self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def topic_id(self, partition: int) -> str:
        """The id of the topic that an assigned partition is read from."""
        return self._topic_ids.get(partition, "")

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Wait for a first record, then take what the client has fetched already, without waiting to fill up."""
        records = read_records(self._consumer, self._settings, limit, seconds)
        self._check_topic()
        return records

    def _check_topic(self) -> None:
        """Leave the group if the topic is another one than the positions are of. Raises retry.Expelled then.

        The client would keep its positions: under the classic protocol nothing else tells it. A new member begins with
        what the broker says by then.
        """
        answer = self._watch.answer
        if answer is self._checked or not answer.topic_id or answer.question < self._looked:
            return
        self._checked = answer
        if set(self._topic_ids.values()) - {"", answer.topic_id}:
            log.warning("Topic recreated: it is read from its beginning", topic=self._topic, topic_id=answer.topic_id)
            self.close()  # what is in progress may be finished; its commits name the former topic
            raise Expelled(f"{self._topic} was deleted and created again")
        self._topic_ids = dict.fromkeys(self._topic_ids, answer.topic_id)

    def pause(self, partitions: Sequence[int]) -> None:
        """Read no more of these."""
        self._consumer.pause(self._named(partitions))

    def resume(self, partitions: Sequence[int]) -> None:
        """Read them again."""
        self._consumer.resume(self._named(partitions))

    def positions(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """The next offsets, transaction markers passed over. The client's own knowledge: the broker is not asked."""
        found = self._consumer.position(self._named(partitions))
        return {part.partition: part.offset for part in found if part.error is None and part.offset >= 0}

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
        if not self._closed:
            self._closed = True
            self._watch.stop()
            self._consumer.close()
            self._watch.join(WATCH_CLOSE_SECONDS)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            known = consumer.committed(partitions, timeout=self._settings.server_timeout_seconds)
        except KafkaException as error:
            # Without their metadata some finished work is done again; nothing is lost.
            log.warning("Committed offsets unknown", error=str(error))
            known = [TopicPartition(part.topic, part.partition, OFFSET_INVALID) for part in partitions]
        known = self._of_this_topic(known)
        if self._eager:
            consumer.assign(known)
        else:
            consumer.incremental_assign(known)
        consumer.resume(known)
        self._listener.assigned(
            {
                part.partition: (
                    part.offset if part.error is None and part.offset >= 0 else OFFSET_INVALID,
                    part.metadata or "",
                )
                for part in known
            }
        )

    def _of_this_topic(self, known: list[TopicPartition]) -> list[TopicPartition]:
        """The commits, but for a partition whose commit is of another topic its beginning.

        The topic is looked up after its commits and before it is read, so it is never newer than the topic that is
        read. If it is older, a later answer tells.
        """
        answer = self._watch.look(min(LOOK_SECONDS, self._settings.server_timeout_seconds))
        self._looked = answer.question
        if not answer.topic_id:
            log.warning("Topic id unknown: committed offsets are taken as they are", topic=self._topic)
            self._topic_ids |= {part.partition: topic_of(part.metadata) for part in known}
            return known
        self._topic_ids |= {part.partition: answer.topic_id for part in known}
        others = {part.partition for part in known if of_another_topic(part.metadata, answer.topic_id)}
        if others:
            log.warning(
                "Committed offsets are of another topic of this name: the partitions are read from their beginning",
                topic=self._topic,
                topic_id=answer.topic_id,
                partitions=sorted(others),
            )
        return [
            TopicPartition(part.topic, part.partition, OFFSET_BEGINNING) if part.partition in others else part
            for part in known
        ]

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._listener.revoked([part.partition for part in partitions])
        self._left(partitions)

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._listener.lost([part.partition for part in partitions])
        self._left(partitions)

    def _left(self, partitions: list[TopicPartition]) -> None:
        for part in partitions:
            self._topic_ids.pop(part.partition, None)

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
