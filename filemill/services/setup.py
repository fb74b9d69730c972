"""What the servers need before the pipeline can run: schema, topics, bucket. Each step may be repeated."""

import time
from collections.abc import Callable

import psycopg
import sqlalchemy as sa
import structlog

from filemill.adapters.kafka.admin import KafkaAdmin, all_topics
from filemill.adapters.postgres.connection import libpq_parameters
from filemill.adapters.postgres.migrate import migrate_schema
from filemill.adapters.postgres.roles import Login, Roles, arrange_roles
from filemill.adapters.postgres.topics import register
from filemill.adapters.s3.admin import create_bucket
from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable

log = structlog.get_logger("setup")

PAUSE_SECONDS = 0.2


def prepare(settings: Settings, *, patience_seconds: float = 0) -> None:
    """Migrate, create topics and bucket. Raises Unavailable after the patience."""
    deadline = time.monotonic() + patience_seconds
    _patiently(lambda: KafkaAdmin(settings).create_topics(), deadline)
    _date_by_broker(settings)
    _patiently(lambda: create_bucket(settings), deadline)
    if settings.database_superuser_user:
        _patiently(lambda: make_roles(settings), deadline)
    _patiently(lambda: migrate_schema(settings), deadline)
    engine = bootstrap.create_engine(settings, "setup")
    try:
        _patiently(lambda: _note_topics(settings, engine), deadline)
    finally:
        engine.dispose()


def make_roles(settings: Settings) -> None:
    """Make the database and its roles, as the superuser whom the settings name. Raises Unavailable."""
    superuser = {"user": settings.database_superuser_user, "password": settings.database_superuser_password}
    as_superuser = settings.model_copy(update={f"database_{name}": value for name, value in superuser.items()})
    server = {name: value for name, value in libpq_parameters(as_superuser).items() if name != "dbname"}
    roles = Roles(
        database=settings.database_name,
        owner=Login(settings.database_owner_user, settings.database_owner_password.get_secret_value()),
        application=Login(settings.database_user, settings.database_password.get_secret_value()),
        reader=Login(settings.database_reader_user, settings.database_reader_password.get_secret_value()),
    )
    try:
        arrange_roles(server, roles)
    except psycopg.Error as error:
        raise Unavailable(f"PostgreSQL at {as_superuser.database_url}: the roles were not made: {error}") from None


def _date_by_broker(settings: Settings) -> None:
    """Mend topics that somebody else, or an older version, created. Where that is not allowed the rest still works."""
    admin = KafkaAdmin(settings)
    try:
        if topics := admin.topics_dated_by_producers():
            admin.date_by_broker(topics)
            log.info("Records are dated by the broker from now on", topics=topics)
    except Unavailable as error:
        log.warning("Records keep their producers' timestamps: the topics cannot be altered", error=str(error))


def _note_topics(settings: Settings, engine: sa.Engine) -> None:
    """Remember which topics these are: one that has such a name later may be another."""
    topics = KafkaAdmin(settings).identities(all_topics(settings))
    with engine.begin() as connection:
        register(connection, topics)


def _patiently(step: Callable[[], object], deadline: float) -> None:
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
