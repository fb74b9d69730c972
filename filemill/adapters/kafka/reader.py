"""Reading topics: records of a consumer, all partitions without a group, or a topic up to its end."""

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from filemill.adapters.kafka.client import (
    UnreadableHeaders,
    client_config,
    headers_of,
    kafka_errors,
    new_client,
    to_exception,
)
from filemill.adapters.kafka.errors import RECOVERED_BY_CLIENT, KafkaErrorCode, classify
from filemill.config.settings import Settings
from filemill.domain.consumer_groups import LogOffsets
from filemill.domain.kafka_access import reader_group
from filemill.domain.records import Record
from filemill.errors import MemberExpelled, Unavailable

log = structlog.get_logger("kafka")

# So much is prefetched of a topic that is read to its end. The default is 64 MB: memory would grow with the topic.
QUEUE_KILOBYTES = 2048
# A partition whose queue is full is fetched again after this time. With the default of one second, a processor with a
# fast S3 was idle for half of the time.
FETCH_BACKOFF_MILLISECONDS = 5
READ_RECORDS = 2000
READ_SECONDS = 0.5
# A reader that receives nothing for this long, neither a record nor an end, raises Unavailable.
NO_DATA_TIMEOUT_SECONDS = 20.0
# Up to this many records between two requested ones are read and dropped; beyond that a seek is faster.
MAX_SKIPPED_RECORDS = 20
# After this long without data the reader checks that the topic still exists.
EXISTENCE_CHECK_SECONDS = 2.0

# An error that the client recovers from is logged once in this time.
LOG_INTERVAL_SECONDS = 60.0
_logged_at: dict[tuple[str, int], float] = {}

# The last day of the year 9999, the end of Python's calendar; time zones need some hours before it.
LATEST_TIMESTAMP_MILLISECONDS = 253_402_214_400_000

PARTITION_EOF = KafkaError._PARTITION_EOF
_FENCED_TEXT = "fenced by other consumer"


def read_records(consumer: Consumer, settings: Settings, limit: int, seconds: float) -> list[Record]:
    """Up to `limit` records: waits for the first, then takes what the client has prefetched.

    Raises Unavailable for an error that the client does not recover from, unless records came with it: these are
    returned first. Raises MemberExpelled if a new client could continue.
    """
    try:
        first = consumer.poll(seconds)
        if first is None:
            return []
        rest = consumer.consume(limit - 1, timeout=0) if limit > 1 else []
    except KafkaException as raised:
        raise consumer_error(settings, raised.args[0]) from None
    records, failure = [], None
    for message in [first, *rest]:
        error = message.error()
        if error is None:
            records.append(to_record(message))
        elif error.fatal() or error.code() not in RECOVERED_BY_CLIENT:
            failure = error if failure is None or error.fatal() else failure
        elif error.code() != PARTITION_EOF:
            _log_throttled(settings, error)
    if failure is not None and (failure.fatal() or not records):
        raise consumer_error(settings, failure)
    return records


def _log_throttled(settings: Settings, error: KafkaError) -> None:
    """Log an error that the client recovers from, once a minute: the client reports it much more often."""
    key, now = (settings.kafka_broker, error.code()), time.monotonic()
    if now - _logged_at.get(key, float("-inf")) >= LOG_INTERVAL_SECONDS:
        _logged_at[key] = now
        rule = classify(error)
        log.warning("Kafka error", broker=settings.kafka_broker, code=rule.code, error=error.str(), advice=rule.advice)


def consumer_error(settings: Settings, error: KafkaError) -> Unavailable | KafkaException:
    """The exception for a consumer's error. After a fatal one a new client may usually continue: MemberExpelled."""
    unavailable = to_exception(settings, error)
    if not (error.fatal() or error.code() == KafkaError._FATAL):
        return unavailable
    # After a fatal error librdkafka reports the broker's error code only inside the text.
    if error.code() == KafkaError.FENCED_INSTANCE_ID or _FENCED_TEXT in error.str():
        # Joining again would expel the other member, which would join again.
        return Unavailable(
            f"another process is in the group under the name of this one, {settings.worker_id!r}",
            code=KafkaErrorCode.INSTANCE_FENCED,
        )
    return MemberExpelled(str(unavailable))


def to_record(message: Message) -> Record:
    """Convert a message that is not an error. Raises nothing, whatever the record contains."""
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
    """Milliseconds since 1970; None if the message has no timestamp, or one outside the years 1970 to 9999.

    A producer may write any 64-bit number: seconds, microseconds, a negative one. Many topics accept it.
    """
    kind, stamp = message.timestamp()
    return stamp if kind != TIMESTAMP_NOT_AVAILABLE and 0 <= stamp <= LATEST_TIMESTAMP_MILLISECONDS else None


def reader_config(settings: Settings, role: str, **properties: str | int) -> dict[str, Any]:
    """The properties of a consumer that reads partitions outside of a group; `properties` override them."""
    alone = {
        "group.id": reader_group(role),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
    }
    return client_config(settings, role, **{**alone, **properties})


def read_topic(
    settings: Settings,
    topic: str,
    partitions: Sequence[LogOffsets],
    role: str,
    since: Mapping[tuple[str, int], int] | None = None,
) -> Iterator[Record]:
    """The records up to the end offsets in `partitions`, from the beginnings or from the offsets of `since`.

    Each partition's records come in the order of their offsets. Raises Unavailable.
    """
    starts = {
        part.partition: max(part.begin or 0, (since or {}).get((topic, part.partition), 0)) for part in partitions
    }
    ends = {part.partition: part.end for part in partitions if part.end and part.end > starts[part.partition]}
    prefetch = {"queued.max.messages.kbytes": QUEUE_KILOBYTES, "fetch.queue.backoff.ms": FETCH_BACKOFF_MILLISECONDS}
    yield from map(to_record, messages_to_end(settings, topic, starts, ends, role, **prefetch))


def messages_to_end(
    settings: Settings,
    topic: str,
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    role: str,
    **properties: str | int,
) -> Generator[Message]:
    """The messages of some partitions from `starts` up to `ends`, each partition's in the order of its offsets.

    The last offset before an end may have no record: it may be a transaction's control record, or a record that
    compaction or retention removed, perhaps during the read. So a partition ends at its last record, or where the
    broker reports its end. Readers see committed transactions only (librdkafka's default): a partition ends where an
    open transaction begins. Raises Unavailable.
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
    """Like `messages_to_end`; `enough` is called with each message, and True ends the reading of its partition."""
    if not ends:
        return
    consumer = new_client(Consumer, reader_config(settings, role, **{"enable.partition.eof": True, **properties}))
    try:
        with kafka_errors(settings):
            consumer.assign([TopicPartition(topic, number, starts.get(number, 0)) for number in sorted(ends)])
        yield from _read_until(consumer, settings, topic, ends, enough)
    finally:
        consumer.close()


def read_records_at(settings: Settings, topic: str, places: Iterable[tuple[int, int]], role: str) -> Iterator[Record]:
    """The records at these places (partition and offset) that still exist.

    A partition's records come in the order of their offsets. Distant places of a partition are read in several passes
    over all partitions. Raises Unavailable.
    """
    wanted = set(places)
    ranges: dict[int, list[tuple[int, int, int]]] = {}  # partition, start and end offset, by partition
    for partition, offset in sorted(wanted):
        of_partition = ranges.setdefault(partition, [])
        start = offset
        if of_partition and offset - of_partition[-1][2] < MAX_SKIPPED_RECORDS:
            _, start, _ = of_partition.pop()
        of_partition.append((partition, start, offset + 1))
    if not wanted:
        return
    prefetch = {"queued.max.messages.kbytes": QUEUE_KILOBYTES, "fetch.queue.backoff.ms": FETCH_BACKOFF_MILLISECONDS}
    consumer = new_client(Consumer, reader_config(settings, role, **{"enable.partition.eof": True, **prefetch}))
    try:
        for ranges_of_pass in itertools.zip_longest(*ranges.values()):
            parts = [part for part in ranges_of_pass if part is not None]
            with kafka_errors(settings):
                consumer.assign([TopicPartition(topic, number, start) for number, start, _ in parts])
            for message in _read_until(consumer, settings, topic, {number: end for number, _, end in parts}, _never):
                if (message.partition(), message.offset()) in wanted:
                    yield to_record(message)
    finally:
        consumer.close()


def _read_until(
    consumer: Consumer,
    settings: Settings,
    topic: str,
    ends: Mapping[int, int],
    enough: Callable[[Message], bool],
) -> Iterator[Message]:
    left, received_at, checked = set(ends), time.monotonic(), False
    while left:
        for message in _fetch(consumer, settings):
            partition, offset = message.partition(), message.offset()
            if partition not in left or offset is None:
                continue  # an error without a partition, or a message beyond the end
            received_at = time.monotonic()
            if message.error() is None and offset < ends[partition]:
                yield message
                if enough(message):
                    left.discard(partition)
                    consumer.pause([TopicPartition(topic, partition)])
            if message.error() is not None or offset + 1 >= ends[partition]:
                left.discard(partition)
        silence = time.monotonic() - received_at
        if silence > NO_DATA_TIMEOUT_SECONDS:
            raise Unavailable(f"Kafka stopped responding during a read of {topic}", code=KafkaErrorCode.UNREACHABLE)
        if silence > EXISTENCE_CHECK_SECONDS and not checked:
            checked = True
            _check_existence(consumer, settings, topic, left)


def _fetch(consumer: Consumer, settings: Settings) -> Iterator[Message]:
    """The messages that the client has prefetched, and the ends of partitions; waits for the first."""
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
        problem = f"{topic} was deleted or recreated during the read"
        raise Unavailable(problem, "Retry", code=KafkaErrorCode.UNKNOWN_TOPIC)
