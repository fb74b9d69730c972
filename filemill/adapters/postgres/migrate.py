"""Migrations of the database's schema."""

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from filemill.adapters.postgres.connection import create_engine
from filemill.config.settings import Settings

# The advisory lock of all migrations: any fixed number, here "filemill" as eight ASCII bytes.
MIGRATION_LOCK = int.from_bytes(b"filemill")


def alembic_config() -> Config:
    """Alembic's configuration for the migrations in the package."""
    config = Config()
    config.set_main_option("script_location", "filemill_infra:migrations")
    return config


def head_revision() -> str:
    """The newest revision of this version of filemill."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None
    return head


def current_revision(connection: sa.Connection) -> str | None:
    """The revision of the database; None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate_schema(settings: Settings) -> tuple[str | None, str]:
    """Apply the missing migrations as the schema's owner, and grant the other roles their rights.

    Returns the revisions before and after. Raises Unavailable.
    """
    engine = create_engine(settings.as_owner(), "migrate")
    application = settings.database_user if settings.database_owner_user else None
    try:
        return migrate(engine, application=application, reader=settings.database_reader_user or None)
    finally:
        engine.dispose()


def migrate(engine: sa.Engine, *, application: str | None = None, reader: str | None = None) -> tuple[str | None, str]:
    """Apply the missing migrations; returns the revisions before and after.

    `application` and `reader` are roles beside the owner: the first may read and change all rows, the second may read,
    except accounts, their sessions and their tokens.

    Several processes may call this at once: one migrates, the others wait for its lock and find nothing to do. The lock
    ends with the transaction, so a process that dies blocks no other and leaves no partial migration.
    """
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        before = current_revision(connection)
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if application:
            _grant(connection, application, "SELECT, INSERT, UPDATE, DELETE", "USAGE, SELECT")
            quoted = connection.dialect.identifier_preparer.quote_identifier(application)
            connection.exec_driver_sql(f"REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM {quoted}")
            # The audit log is append-only, and only its trigger moves the head.
            connection.exec_driver_sql(f"REVOKE UPDATE, DELETE ON operations FROM {quoted}")
            connection.exec_driver_sql(f"REVOKE INSERT, UPDATE, DELETE ON audit_head FROM {quoted}")
        if reader:
            _grant(connection, reader, "SELECT", "SELECT")
            quoted = connection.dialect.identifier_preparer.quote_identifier(reader)
            tables = "accounts, sessions, tokens, sign_in_attempts, sign_in_tries"
            connection.exec_driver_sql(f"REVOKE ALL ON {tables} FROM {quoted}")
        return before, head_revision()


def _grant(connection: sa.Connection, role: str, on_tables: str, on_sequences: str) -> None:
    """Grant a role rights on the existing objects of the schema, and on those that its owner creates later."""
    quoted = connection.dialect.identifier_preparer.quote_identifier(role)
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {quoted}")
    for rights, kind in ((on_tables, "TABLES"), (on_sequences, "SEQUENCES")):
        connection.exec_driver_sql(f"GRANT {rights} ON ALL {kind} IN SCHEMA public TO {quoted}")
        connection.exec_driver_sql(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT {rights} ON {kind} TO {quoted}")
