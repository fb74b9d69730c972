"""Which requests are gone from Kafka: the bounds that Kafka, PostgreSQL and the workers' events give together."""

from collections.abc import Sequence

import sqlalchemy as sa
import structlog

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.postgres.request_losses import applied_positions, busy_workers
from filemill.adapters.postgres.topics import register_topics
from filemill.config.settings import Settings
from filemill.domain.consumer_groups import GroupDescription, LogOffsets
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.request_losses import LossBounds, PartitionRange, loss_bounds, results_applied
from filemill.errors import Unavailable

log = structlog.get_logger("operations")

TOPIC_MISSING = "kafka-topic-missing"


def find_bounds(settings: Settings, admin: KafkaAdmin, engine: sa.Engine) -> LossBounds:
    """What is gone now, according to Kafka and PostgreSQL. Raises Unavailable."""
    topic, shares = settings.topic_create, settings.offsets_group is None
    parts = admin.offsets(settings.offsets_group, topic)
    group = None if shares else admin.describe_group(settings.kafka_group, topic)
    return bounds_of(settings, admin, engine, parts, group)


def bounds_of_queues(settings: Settings, admin: KafkaAdmin, engine: sa.Engine) -> list[LossBounds]:
    """What is gone now from the topic of each queue. Raises Unavailable if Kafka or `file.create` is.

    A queue whose topic is missing is left out: nothing is known of its records.
    """
    found = []
    for name in settings.all_queues:
        try:
            found.append(find_bounds(settings.of_queue(name), admin, engine))
        except Unavailable as error:
            if name == DEFAULT_QUEUE or error.code != TOPIC_MISSING:
                raise
            log.warning("Requests of a queue cannot be checked", queue=name, error=str(error))
    return found


def bounds_of(
    settings: Settings,
    admin: KafkaAdmin,
    engine: sa.Engine,
    parts: Sequence[LogOffsets],
    group: GroupDescription | None,
) -> LossBounds:
    """The same, from offsets and members that were read just before: what they show as committed has a result by now.

    `group` None: a share group, whose members and offsets the client cannot read. Raises Unavailable.
    """
    watermarks = admin.high_watermarks(settings.topic_create)
    topics = admin.identities([settings.topic_create, settings.topic_created])
    if settings.topic_create not in topics:
        raise Unavailable(
            f"Kafka has no topic {settings.topic_create}: run `filemill topics create`", code=TOPIC_MISSING
        )
    ends = {part.partition: part.end or 0 for part in admin.offsets(None, settings.topic_created)}
    with engine.begin() as connection:
        generations = register_topics(connection, topics)
        created = settings.topic_created
        positions = applied_positions(connection, created, generations.get(created, 0))
        _, idle = busy_workers(connection)
    members = [] if group is None else [member for member in group.members if member.client_id not in idle]
    owned = {partition for member in members for partition in member.partitions}
    return loss_bounds(
        generations[settings.topic_create],
        [
            PartitionRange(part.partition, part.begin or 0, watermarks.get(part.partition, 0), part.committed)
            for part in parts
        ],
        owned,
        share_group=group is None,
        queue=settings.queue_name,
        results_applied=results_applied(ends, positions),
    )
