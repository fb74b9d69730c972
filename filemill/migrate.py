"""Bringing the database's schema up to date."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import infra.migrations

# Any fixed number: all processes that migrate ask for the same lock. ("filemill" as eight ASCII bytes.)
MIGRATION_LOCK = int.from_bytes(b"filemill")


def alembic_config() -> Config:
    """Alembic's configuration for the migrations that come with the package."""
    config = Config()
    config.set_main_option("script_location", str(Path(infra.migrations.__file__).parent).replace("%", "%%"))
    return config


def head_revision() -> str:
    """The newest revision that this version of filemill knows."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None
    return head


def current_revision(connection: sa.Connection) -> str | None:
    """The database's revision; None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(engine: sa.Engine) -> tuple[str | None, str]:
    """Apply what is missing; returns the revisions before and after.

    Many processes may call this at once: one works, the others wait for its lock and find nothing left to do. The lock
    ends with the transaction, so one that dies holds nobody up, and leaves no half of a migration.
    """
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        before = current_revision(connection)
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before, head_revision()
