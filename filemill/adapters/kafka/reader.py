"""Reading topics: records from a consumer, all partitions without a group, a whole topic to its end."""

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from filemill.adapters.kafka.admin import LogOffsets
from filemill.adapters.kafka.client import (
    UnreadableHeaders,
    client_config,
    headers_of,
    kafka_errors,
    new_client,
    to_exception,
)
from filemill.adapters.kafka.errors import RECOVERED_BY_CLIENT, classify
from filemill.adapters.kafka.topics import TopicIdentities
from filemill.config.settings import Settings
from filemill.domain.records import Record, TopicIdentity
from filemill.errors import MemberExpelled, Unavailable

log = structlog.get_logger("kafka")

# Who reads a whole topic has so much of it fetched ahead. By default 64 MB: memory would grow with the topic.
QUEUE_KILOBYTES = 2048
# Where enough is fetched ahead of a partition, it is looked at again after this. By default it is left alone for a
# second, however soon all of that is taken: a processor on a quick S3 stood still for half of its time.
FETCH_BACKOFF_MILLISECONDS = 5
READ_RECORDS = 2000
READ_SECONDS = 0.5
# A reader that hears nothing for this long, neither a record nor an end, gives up with an error.
NO_DATA_TIMEOUT_SECONDS = 20.0
# Records between two that are wanted are read through; over more of them it is quicker to seek.
MAX_SKIPPED_RECORDS = 20
# After this long without anything it looks whether the topic still exists.
EXISTENCE_CHECK_SECONDS = 2.0

# What a client waits for is logged so often at most.
LOG_INTERVAL_SECONDS = 60.0
_logged_at: dict[tuple[str, int], float] = {}

# The last day of the year 9999: no calendar here goes on, and time zones need some hours before its end.
LATEST_TIMESTAMP_MILLISECONDS = 253_402_214_400_000

PARTITION_EOF = KafkaError._PARTITION_EOF


def read_records(consumer: Consumer, settings: Settings, limit: int, seconds: float) -> list[Record]:
    """Up to `limit` records: wait for a first, then take what the client has fetched, without waiting to fill up.

    Raises Unavailable for what the client cannot mend by itself; records that came with it come first. Where a
    new client could go on, it is MemberExpelled.
    """
    try:
        first = consumer.poll(seconds)
        if first is None:
            return []
        rest = consumer.consume(limit - 1, timeout=0) if limit > 1 else []
    except KafkaException as raised:
        raise consumer_error(settings, raised.args[0]) from None
    records, trouble = [], None
    for message in [first, *rest]:
        error = message.error()
        if error is None:
            records.append(to_record(message))
        elif error.fatal() or error.code() not in RECOVERED_BY_CLIENT:
            trouble = error if trouble is None or error.fatal() else trouble
        elif error.code() != PARTITION_EOF:
            _log_throttled(settings, error)
    if trouble is not None and (trouble.fatal() or not records):
        raise consumer_error(settings, trouble)
    return records


def _log_throttled(settings: Settings, error: KafkaError) -> None:
    """Log what the client waits for, once a minute: it says so much more often."""
    key, now = (settings.kafka_broker, error.code()), time.monotonic()
    if now - _logged_at.get(key, float("-inf")) >= LOG_INTERVAL_SECONDS:
        _logged_at[key] = now
        log.warning("Kafka trouble", broker=settings.kafka_broker, error=error.str(), advice=classify(error).advice)


def consumer_error(settings: Settings, trouble: KafkaError) -> Unavailable | KafkaException:
    """What an error of a client means: where it is fatal, usually that a new client may go on."""
    away = to_exception(settings, trouble)
    if not (trouble.fatal() or trouble.code() == KafkaError._FATAL):
        return away
    # librdkafka wraps the broker's own error code into text once a client has given up.
    if trouble.code() == KafkaError.FENCED_INSTANCE_ID or "fenced by other consumer" in trouble.str():
        # To join again would put the other one out, which would join again.
        return Unavailable(f"another process is in the group under this one's name, {settings.worker_id!r}")
    return MemberExpelled(str(away))


def to_record(message: Message) -> Record:
    """A message that is no error, as the rest of the system knows it. Raises nothing, whatever the record holds."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    try:
        headers, headers_error = headers_of(message), None
    except UnreadableHeaders as error:
        headers, headers_error = [], str(error)
    return Record(
        topic,
        partition,
        offset,
        message.value(),
        headers,
        timestamp_of(message) or 0,
        headers_error=headers_error,
        by_broker=message.timestamp()[0] == TIMESTAMP_LOG_APPEND_TIME,
    )


def timestamp_of(message: Message) -> int | None:
    """Milliseconds since 1970; None if the message has no timestamp, or one that is no moment.

    A producer may write any 64-bit number, and many topics take it: seconds, microseconds, a negative one.
    """
    kind, stamp = message.timestamp()
    return stamp if kind != TIMESTAMP_NOT_AVAILABLE and 0 <= stamp <= LATEST_TIMESTAMP_MILLISECONDS else None


def reader_config(settings: Settings, role: str, **properties: str | int) -> dict[str, Any]:
    """The properties of a consumer that reads partitions without being in a group; `properties` win."""
    alone = {
        "group.id": f"filemill-{role}",  # librdkafka wants one; nothing is ever committed under it
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
    }
    return client_config(settings, role, **{**alone, **properties})


class KafkaTopicReader:
    """Reads all partitions of some topics from positions that its caller keeps; in no group's assignment.

    New partitions are taken up when `refresh` is called; a topic that is another one by then begins again.
    """

    def __init__(self, settings: Settings, topics: Sequence[str], role: str, **properties: str | int) -> None:
        """`properties` are the client's, beside those that every reader has."""
        self._settings = settings
        self._topics = topics
        self._assigned: dict[tuple[str, int], TopicIdentity] = {}
        self._identities = TopicIdentities(settings, role)
        self._consumer = new_client(Consumer, reader_config(settings, role, **properties))

    def identities(self) -> dict[str, TopicIdentity]:
        """Which topics have the names now; those that do not exist are absent. Raises Unavailable."""
        return self._identities(self._topics)

    def refresh(
        self, positions: Mapping[tuple[str, int], int], identities: Mapping[str, TopicIdentity] | None = None
    ) -> None:
        """Read all partitions that exist: known ones go on, new ones begin at their position, or at the beginning.

        `positions` are of the topics with these `identities`; without them the broker is asked.
        """
        found = self.identities() if identities is None else identities
        existing = {(topic, number): one for topic, one in found.items() for number in range(one.partitions)}
        # A topic that is not there just now may be back: its partitions stay until another one has its name.
        gone = [place for place, one in self._assigned.items() if not one.is_same_topic(found.get(place[0], one))]
        if gone:
            log.warning(
                "Topics are others than before: they are read anew", topics=sorted({place[0] for place in gone})
            )
            self._consumer.incremental_unassign([TopicPartition(*place) for place in gone])
            for place in gone:
                del self._assigned[place]
        new = sorted(existing.keys() - self._assigned.keys())
        if new:
            # The consumer learns the leaders now; otherwise it finds out a second later that it does not know them.
            with kafka_errors(self._settings):
                self._consumer.list_topics(timeout=self._settings.server_timeout_seconds)
            parts = [TopicPartition(*place, positions.get(place, OFFSET_BEGINNING)) for place in new]
            self._consumer.incremental_assign(parts)
            self._assigned |= {place: existing[place] for place in new}

    def ends(self) -> dict[tuple[str, int], int]:
        """The end of each partition that `refresh` has taken up, asked of the broker. Raises Unavailable."""
        timeout = self._settings.server_timeout_seconds
        with kafka_errors(self._settings):
            return {
                (topic, number): self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=timeout)[1]
                for topic, number in self._assigned
            }

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Up to `limit` records; waits `seconds` at most for the first."""
        return read_records(self._consumer, self._settings, limit, seconds)

    def close(self) -> None:
        """Give up the connection."""
        self._consumer.close()


def read_topic(
    settings: Settings,
    topic: str,
    spans: Sequence[LogOffsets],
    role: str,
    since: Mapping[tuple[str, int], int] | None = None,
) -> Iterator[Record]:
    """A topic to the ends given, partition by partition in order, from its beginning or from the offsets of `since`.

    Raises Unavailable.
    """
    starts = {part.partition: max(part.begin or 0, (since or {}).get((topic, part.partition), 0)) for part in spans}
    ends = {part.partition: part.end for part in spans if part.end and part.end > starts[part.partition]}
    ahead = {"queued.max.messages.kbytes": QUEUE_KILOBYTES, "fetch.queue.backoff.ms": FETCH_BACKOFF_MILLISECONDS}
    yield from map(to_record, messages_to_end(settings, topic, starts, ends, role, **ahead))


def messages_to_end(
    settings: Settings,
    topic: str,
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    role: str,
    **properties: str | int,
) -> Generator[Message]:
    """The messages of some partitions from `starts` up to `ends`, each partition's in order: the one way to the end.

    The last offset before an end may hold no record: a transaction's marker, or what compaction or retention removed,
    perhaps while it is read. So a partition ends at its last record, or where the broker says that no record follows.
    Readers see committed transactions only (librdkafka's default): an open one ends the partition at its beginning.
    Raises Unavailable.
    """
    return messages_until(settings, topic, starts, ends, role, _never, **properties)


def _never(_message: Message) -> bool:
    return False


def messages_until(
    settings: Settings,
    topic: str,
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    role: str,
    enough: Callable[[Message], bool],
    **properties: str | int,
) -> Generator[Message]:
    """As `messages_to_end`; `enough` is asked after each message, and by True ends the reading of its partition."""
    if not ends:
        return
    consumer = new_client(Consumer, reader_config(settings, role, **{"enable.partition.eof": True, **properties}))
    try:
        with kafka_errors(settings):
            consumer.assign([TopicPartition(topic, number, starts.get(number, 0)) for number in sorted(ends)])
        yield from _until(consumer, settings, topic, ends, enough)
    finally:
        consumer.close()


def read_records_at(settings: Settings, topic: str, places: Iterable[tuple[int, int]], role: str) -> Iterator[Record]:
    """The records at these places (partition and offset), those that are gone left out.

    They come partition by partition in the order of offsets, but where many records lie between. Raises
    Unavailable.
    """
    wanted = set(places)
    spans: dict[int, list[tuple[int, int, int]]] = {}
    for partition, offset in sorted(wanted):
        of_partition = spans.setdefault(partition, [])
        start = offset
        if of_partition and offset - of_partition[-1][2] < MAX_SKIPPED_RECORDS:
            _, start, _ = of_partition.pop()
        of_partition.append((partition, start, offset + 1))
    if not wanted:
        return
    ahead = {"queued.max.messages.kbytes": QUEUE_KILOBYTES, "fetch.queue.backoff.ms": FETCH_BACKOFF_MILLISECONDS}
    consumer = new_client(Consumer, reader_config(settings, role, **{"enable.partition.eof": True, **ahead}))
    try:
        for turn in itertools.zip_longest(*spans.values()):
            parts = [part for part in turn if part is not None]
            with kafka_errors(settings):
                consumer.assign([TopicPartition(topic, number, start) for number, start, _ in parts])
            for message in _until(consumer, settings, topic, {number: end for number, _, end in parts}, _never):
                if (message.partition(), message.offset()) in wanted:
                    yield to_record(message)
    finally:
        consumer.close()


def _until(
    consumer: Consumer,
    settings: Settings,
    topic: str,
    ends: Mapping[int, int],
    enough: Callable[[Message], bool],
) -> Iterator[Message]:
    left, heard_at, doubted = set(ends), time.monotonic(), False
    while left:
        for message in _batch(consumer, settings):
            partition, offset = message.partition(), message.offset()
            if partition not in left or offset is None:
                continue  # an error of no partition, or what was fetched beyond a partition's end
            heard_at = time.monotonic()
            if message.error() is None and offset < ends[partition]:
                yield message
                if enough(message):
                    left.discard(partition)
                    consumer.pause([TopicPartition(topic, partition)])
            if message.error() is not None or offset + 1 >= ends[partition]:
                left.discard(partition)
        silence = time.monotonic() - heard_at
        if silence > NO_DATA_TIMEOUT_SECONDS:
            raise Unavailable(f"Kafka stopped answering while {topic} was read")
        if silence > EXISTENCE_CHECK_SECONDS and not doubted:
            doubted = True
            _check_existence(consumer, settings, topic, left)


def _batch(consumer: Consumer, settings: Settings) -> Iterator[Message]:
    """What the client has fetched, records and ends of partitions; waits for the first."""
    try:
        first = consumer.poll(READ_SECONDS)
        messages = [] if first is None else [first, *consumer.consume(READ_RECORDS - 1, timeout=0)]
    except KafkaException as raised:
        raise consumer_error(settings, raised.args[0]) from None
    for message in messages:
        error = message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            yield message
        elif error.code() not in RECOVERED_BY_CLIENT:
            raise consumer_error(settings, error)


def _check_existence(consumer: Consumer, settings: Settings, topic: str, partitions: set[int]) -> None:
    with kafka_errors(settings):
        found = consumer.list_topics(topic, timeout=settings.server_timeout_seconds).topics.get(topic)
    if found is None or found.error is not None or partitions - set(found.partitions):
        raise Unavailable(f"{topic} was deleted or recreated while it was read: try again")
