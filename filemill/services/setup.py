"""Preparing the servers for the pipeline: schema, topics, bucket. Each step can be repeated."""

import time
from collections.abc import Callable

import sqlalchemy as sa
import structlog

from filemill.adapters.kafka.access import KafkaAccess
from filemill.adapters.kafka.admin import KafkaAdmin, all_topics
from filemill.adapters.postgres.migrate import migrate_schema
from filemill.adapters.postgres.roles import create_roles
from filemill.adapters.postgres.topics import register_topics
from filemill.adapters.s3.bucket import Bucket
from filemill.config.settings import Settings, role_passwords
from filemill.domain.kafka_access import grants
from filemill.errors import Unavailable

log = structlog.get_logger("setup")

PAUSE_SECONDS = 0.2


def prepare(
    settings: Settings,
    engine: sa.Engine,
    kafka: Callable[[], KafkaAdmin],
    bucket: Bucket,
    *,
    kafka_access: Callable[[], KafkaAccess] | None = None,
    timeout_seconds: float = 0,
) -> None:
    """Migrate the schema, create topics and bucket. Retries for `timeout_seconds`, then raises Unavailable.

    With `kafka_access`, also create the Kafka users of the roles. Raises InvalidSettings if a password is missing.
    """
    deadline = time.monotonic() + timeout_seconds
    if kafka_access is not None:
        _retry(lambda: _create_kafka_users(settings, kafka_access()), deadline)
    _retry(lambda: kafka().create_topics(), deadline)
    _set_broker_timestamps(kafka())
    _retry(bucket.create, deadline)
    if settings.database_superuser_user:
        _retry(lambda: create_roles(settings), deadline)
    _retry(lambda: migrate_schema(settings), deadline)
    _retry(lambda: _register_topics(settings, engine, kafka()), deadline)


def _create_kafka_users(settings: Settings, access: KafkaAccess) -> None:
    """Create the users of the roles, with their rights. They have rights on topics that do not exist yet, too."""
    access.set_passwords(role_passwords(settings))
    access.replace_grants(grants(settings.pipeline_names))


def _set_broker_timestamps(admin: KafkaAdmin) -> None:
    """Correct topics that another program or an older version created. If that is not allowed, the rest still works."""
    try:
        if topics := admin.topics_with_producer_timestamps():
            admin.use_broker_timestamps(topics)
            log.info("The broker sets the timestamps of new records", topics=topics)
    except Unavailable as error:
        log.warning("Records keep their producers' timestamps: the topics cannot be altered", error=str(error))


def _register_topics(settings: Settings, engine: sa.Engine, admin: KafkaAdmin) -> None:
    """Store the ids of the topics: a topic that is recreated has the same name and another id."""
    topics = admin.identities(all_topics(settings))
    with engine.begin() as connection:
        register_topics(connection, topics)


def _retry(step: Callable[[], object], deadline: float) -> None:
    while True:
        try:
            step()
        except Unavailable as error:
            if time.monotonic() >= deadline:
                raise
            log.debug("Not ready yet", error=str(error))
            time.sleep(PAUSE_SECONDS)
        else:
            return
