"""A share source of Kafka: a member of a share group (KIP-932).

Experimental, as in the client. There are no assignments and no committed offsets. The broker keeps the state of each
record: it delivers and locks records one by one, and delivers an unacknowledged record again, up to a limit.
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
# A lock lasts no longer than the job needs, because a worker that hangs with an open connection keeps its records until
# the lock expires. The default of a broker allows no shorter lock than this.
MIN_LOCK_SECONDS = 15.0
# A batch is released so long before its locks expire.
BATCH_SPARE_SECONDS = 5.0
# The maximum that the default of a broker allows. Each crash of a worker costs its records one delivery.
DELIVERY_LIMIT = 10


class ShareGroupConfig(msgspec.Struct, frozen=True):
    """The broker's settings of a share group: the lock's duration and the maximum number of deliveries.

    `lock_is_default`: the duration is the broker's default, not set for this group.
    """

    lock_seconds: float
    delivery_limit: int
    lock_is_default: bool


def configure_group(settings: Settings) -> ShareGroupConfig:
    """Configure the group before its first member joins, as far as the broker permits; returns what then holds.

    By default a share group starts at the end of the topic and locks a record for 30 s, less than the one-minute job.
    Raises InvalidSettings if the lock is shorter than the job, or Unavailable.
    """
    admin = new_client(AdminClient, client_config(settings, "admin"))
    needed = settings.longest_job_seconds + SHARE_MARGIN_SECONDS
    current = _read_config(settings, admin)
    _set(settings, admin, RESET, "earliest")
    if current.delivery_limit < DELIVERY_LIMIT:
        _set(settings, admin, DELIVERIES, str(DELIVERY_LIMIT))
    # A duration that was set is never shortened: another worker of the group may have longer jobs.
    if current.lock_is_default or current.lock_seconds < needed:
        _set(settings, admin, LOCK, str(int(max(needed, MIN_LOCK_SECONDS) * 1000)))
    config = _read_config(settings, admin)
    if config.lock_seconds < needed:
        raise InvalidSettings(
            f"group_protocol=share: the group {settings.group_id} locks a record for {config.lock_seconds:g} s, less "
            f"than the longest job ({settings.longest_job_seconds:g} s) and a margin of {SHARE_MARGIN_SECONDS:g} s. "
            f"Raise the broker's group.share.max.record.lock.duration.ms to {needed * 1000:.0f} or more, lower "
            "processing_seconds, or choose another group_protocol"
        )
    return config


def _set(settings: Settings, admin: AdminClient, name: str, value: str) -> bool:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.GROUP, settings.group_id, incremental_configs=[entry])
    try:
        for future in admin.incremental_alter_configs([resource]).values():
            future.result()
    except KafkaException as error:
        log.warning("Kafka rejected a setting of the share group", name=name, value=value, error=str(error))
        return False
    return True


def _read_config(settings: Settings, admin: AdminClient) -> ShareGroupConfig:
    resource = ConfigResource(ResourceType.GROUP, settings.group_id)
    with kafka_errors(settings):
        (future,) = admin.describe_configs([resource], request_timeout=settings.server_timeout_seconds).values()
        found = future.result()
    if LOCK not in found:
        raise InvalidSettings(
            f"group_protocol=share: Kafka at {settings.kafka_broker} does not support share groups, which need 4.2"
        )
    return ShareGroupConfig(int(found[LOCK].value) / 1000, int(found[DELIVERIES].value), found[LOCK].is_default)


class KafkaShareSource:
    """A member of the processors' share group that reads one topic. (port: ShareSource). One thread."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """Join. Raises InvalidSettings, or MemberExpelled if Kafka is unavailable, so that the caller joins again."""
        try:
            config = configure_group(settings)
        except Unavailable as error:
            raise MemberExpelled(str(error)) from None
        self._delivery_limit = config.delivery_limit
        self.batch_seconds = min(config.lock_seconds, settings.max_poll_interval_ms / 1000) - BATCH_SPARE_SECONDS
        self._settings = settings
        self._topic = topic
        properties = client_config(
            settings,
            "processor",
            **{
                "group.id": settings.group_id,
                "share.acknowledgement.mode": "explicit",
                "max.poll.records": settings.concurrency,
                "max.poll.interval.ms": settings.max_poll_interval_ms,
            },
        )
        del properties["allow.auto.create.topics"]  # a share consumer rejects it, and creates no topics
        self._consumer = new_client(ShareConsumer, properties)
        self._consumer.set_acknowledgement_commit_callback(self._acknowledged)
        self._consumer.subscribe([topic])
        log.info("Joined", group=settings.group_id, lock_seconds=config.lock_seconds, deliveries=config.delivery_limit)

    def read(self, seconds: float) -> list[Record]:
        """The next batch. All records of the previous one must be accepted or released before."""
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
        """Acknowledge a record: its effects are durable."""
        self._acknowledge(partition, offset, AcknowledgeType.ACCEPT)

    def release(self, partition: int, offset: int) -> None:
        """Make a record available again, also to other members."""
        self._acknowledge(partition, offset, AcknowledgeType.RELEASE)

    def commit_async(self) -> None:
        """Send the acknowledgements without waiting."""
        with kafka_errors(self._settings):
            self._consumer.commit_async()

    def commit_sync(self, seconds: float) -> None:
        """Send the acknowledgements and wait at most `seconds` for the broker's response."""
        try:
            results = self._consumer.commit_sync(seconds)
        except KafkaException as error:
            log.warning("Acknowledgements failed", error=str(error))
            return
        for part, failure in results.items():
            if failure is not None:
                log.warning("Acknowledgements failed", partition=part.partition, error=str(failure))

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _acknowledge(self, partition: int, offset: int, how: AcknowledgeType) -> None:
        try:
            self._consumer.acknowledge_offset(self._topic, partition, offset, how)
        except IllegalStateException as error:
            # Its lock expired, or the group expelled the client: the record is delivered again.
            log.warning("Lost the lock of a record", partition=partition, offset=offset, error=str(error))

    def _acknowledged(self, offsets: dict[TopicPartition, set[int]], error: KafkaException | None) -> None:
        for part, numbers in offsets.items():
            if error is not None:
                log.warning("Acknowledgements failed", partition=part.partition, count=len(numbers), error=str(error))
            else:
                log.debug("Acknowledged", partition=part.partition, offsets=sorted(numbers))
