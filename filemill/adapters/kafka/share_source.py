"""A member of a share group (KIP-932): records are handed out one by one, locked for a time, and counted.

Experimental, as it is in the client. There is no assignment and no offset of ours: the broker keeps the state of each
record, and hands an unacknowledged one out again, a limited number of times.
"""

import msgspec
import structlog
from confluent_kafka import AcknowledgeType, IllegalStateException, KafkaException, ShareConsumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from filemill.adapters.kafka.client import client_config, kafka_errors, new_client
from filemill.adapters.kafka.errors import RECOVERED_BY_CLIENT
from filemill.adapters.kafka.reader import consumer_error, to_record
from filemill.config.settings import InvalidSettings, Settings
from filemill.config.validators import SHARE_MARGIN_SECONDS
from filemill.domain.records import Record
from filemill.errors import MemberExpelled, Unavailable

log = structlog.get_logger("kafka")

LOCK = "share.record.lock.duration.ms"
DELIVERIES = "share.delivery.count.limit"
RESET = "share.auto.offset.reset"
# A lock is no longer than the job needs: a worker that hangs with its connection open keeps its records until it ends
# (one that is gone gives them back at once). Less than this no broker grants, by its own default.
LEAST_LOCK_SECONDS = 15.0
# A batch is given back so long before its locks run out.
BATCH_SPARE_SECONDS = 5.0
# The most that a broker allows by its own default. Each kill of an innocent record's worker costs it one.
DELIVERY_LIMIT = 10


class ShareGroupConfig(msgspec.Struct, frozen=True):
    """What the broker grants a share group: how long a record is locked, and how often it is handed out at most.

    `by_default`: nobody has set the lock's length for this group.
    """

    lock_seconds: float
    delivery_limit: int
    lock_is_default: bool


def configure_group(settings: Settings) -> ShareGroupConfig:
    """Set the group up before its first member joins, as far as the broker lets us, and say what then holds.

    By the broker's defaults a share group starts at the end of the topic, and locks a record for 30 s, which is less
    than the one-minute job. Raises InvalidSettings where a lock is shorter than the job, Unavailable.
    """
    admin = new_client(AdminClient, client_config(settings, "admin"))
    needed = settings.longest_job_seconds + SHARE_MARGIN_SECONDS
    current = _read_config(settings, admin)
    _set(settings, admin, RESET, "earliest")
    if current.delivery_limit < DELIVERY_LIMIT:
        _set(settings, admin, DELIVERIES, str(DELIVERY_LIMIT))
    # One that was set is never shortened: another worker of the group may have longer work.
    if current.lock_is_default or current.lock_seconds < needed:
        _set(settings, admin, LOCK, str(int(max(needed, LEAST_LOCK_SECONDS) * 1000)))
    terms = _read_config(settings, admin)
    if terms.lock_seconds < needed:
        raise InvalidSettings(
            f"group_protocol=share: the group {settings.group_id} locks a record for {terms.lock_seconds:g} s, less "
            f"than the longest job ({settings.longest_job_seconds:g} s) and {SHARE_MARGIN_SECONDS:g} s to spare. "
            f"Raise the broker's group.share.max.record.lock.duration.ms to {needed * 1000:.0f} or more, lower "
            "processing_seconds, or choose another group_protocol"
        )
    return terms


def _set(settings: Settings, admin: AdminClient, name: str, value: str) -> bool:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.GROUP, settings.group_id, incremental_configs=[entry])
    try:
        for future in admin.incremental_alter_configs([resource]).values():
            future.result()
    except KafkaException as error:
        log.warning("Kafka did not take a setting of the share group", name=name, value=value, error=str(error))
        return False
    return True


def _read_config(settings: Settings, admin: AdminClient) -> ShareGroupConfig:
    resource = ConfigResource(ResourceType.GROUP, settings.group_id)
    with kafka_errors(settings):
        (future,) = admin.describe_configs([resource], request_timeout=settings.server_timeout_seconds).values()
        found = future.result()
    if LOCK not in found:
        raise InvalidSettings(
            f"group_protocol=share: Kafka at {settings.kafka_broker} knows no share groups (4.2 or newer has them)"
        )
    return ShareGroupConfig(int(found[LOCK].value) / 1000, int(found[DELIVERIES].value), found[LOCK].is_default)


class KafkaShareSource:
    """A consumer of one topic in the processors' share group. (port: ShareSource). One thread."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """Join. Raises InvalidSettings, and MemberExpelled where Kafka is away: it may be back soon."""
        try:
            terms = configure_group(settings)
        except Unavailable as error:
            raise MemberExpelled(str(error)) from None
        self._delivery_limit = terms.delivery_limit
        self.batch_seconds = min(terms.lock_seconds, settings.max_poll_interval_ms / 1000) - BATCH_SPARE_SECONDS
        self._settings = settings
        self._topic = topic
        config = client_config(
            settings,
            "processor",
            **{
                "group.id": settings.group_id,
                "share.acknowledgement.mode": "explicit",
                "max.poll.records": settings.concurrency,
                "max.poll.interval.ms": settings.max_poll_interval_ms,
            },
        )
        del config["allow.auto.create.topics"]  # a share consumer refuses to hear of it, and creates none
        self._consumer = new_client(ShareConsumer, config)
        self._consumer.set_acknowledgement_commit_callback(self._acknowledged)
        self._consumer.subscribe([topic])
        log.info("Joined", group=settings.group_id, lock_seconds=terms.lock_seconds, deliveries=terms.delivery_limit)

    def read(self, seconds: float) -> list[Record]:
        """The next batch. All of the last one must be accepted or released by now."""
        try:
            messages = list(self._consumer.poll(seconds))
        except KafkaException as raised:
            raise consumer_error(self._settings, raised.args[0]) from None
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                left = self._delivery_limit - (message.delivery_count() or 1)
                records.append(msgspec.structs.replace(to_record(message), deliveries_left=left))
            elif error.fatal() or error.code() not in RECOVERED_BY_CLIENT:
                raise consumer_error(self._settings, error)
        return records

    def accept(self, partition: int, offset: int) -> None:
        """Its effects are durable: never again."""
        self._acknowledge(partition, offset, AcknowledgeType.ACCEPT)

    def release(self, partition: int, offset: int) -> None:
        """Somebody else may have it now."""
        self._acknowledge(partition, offset, AcknowledgeType.RELEASE)

    def commit_async(self) -> None:
        """Send what was accepted and released, without waiting."""
        with kafka_errors(self._settings):
            self._consumer.commit_async()

    def commit_sync(self, seconds: float) -> None:
        """Send it, and wait."""
        try:
            answers = self._consumer.commit_sync(seconds)
        except KafkaException as error:
            log.warning("Acknowledgements refused", error=str(error))
            return
        for part, refusal in answers.items():
            if refusal is not None:
                log.warning("Acknowledgements refused", partition=part.partition, error=str(refusal))

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _acknowledge(self, partition: int, offset: int, how: AcknowledgeType) -> None:
        try:
            self._consumer.acknowledge_offset(self._topic, partition, offset, how)
        except IllegalStateException as error:
            # Its lock ran out, or the client was put out of the group: it is handed out again.
            log.warning("A record is not ours any more", partition=partition, offset=offset, error=str(error))

    def _acknowledged(self, offsets: dict[TopicPartition, set[int]], error: KafkaException | None) -> None:
        for part, numbers in offsets.items():
            if error is not None:
                log.warning("Acknowledgements refused", partition=part.partition, count=len(numbers), error=str(error))
            else:
                log.debug("Acknowledged", partition=part.partition, offsets=sorted(numbers))
