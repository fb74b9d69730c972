"""Statements of the lab: it watches a database of its own, and breaks it on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from filemill.config.settings import Settings

# A database that every server has, and that no fault makes read-only.
MAINTENANCE_DATABASE = "postgres"
_END_SESSIONS = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
)
_REGRESSIONS_TABLE = "lab_status_regressions"
_INSTALL_TRIGGER = """
CREATE TABLE IF NOT EXISTS lab_status_regressions (
    id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL DEFAULT clock_timestamp(), file_id bigint NOT NULL,
    old_run int NOT NULL, old_status text NOT NULL, new_run int NOT NULL, new_status text NOT NULL
);
CREATE OR REPLACE FUNCTION lab_rank(status text) RETURNS int LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE status WHEN 'pending' THEN 0 WHEN 'processing' THEN 1 ELSE 2 END $$;
CREATE OR REPLACE FUNCTION lab_record_status_regression() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO lab_status_regressions (file_id, old_run, old_status, new_run, new_status)
    VALUES (new.id, old.run, old.status, new.run, new.status);
    RETURN new;
END $$;
CREATE OR REPLACE TRIGGER lab_status_regression AFTER UPDATE OF status, run ON files FOR EACH ROW
WHEN (new.run < old.run OR new.run = old.run AND (
    lab_rank(new.status) < lab_rank(old.status)
    OR lab_rank(old.status) = 2 AND new.status IS DISTINCT FROM old.status))
EXECUTE FUNCTION lab_record_status_regression();
"""


@contextmanager
def connect(settings: Settings) -> Iterator[sa.Connection]:
    """A connection as the user of these settings. Each statement is a transaction of its own."""
    url = sa.URL.create(
        "postgresql+psycopg",
        username=settings.database_user,
        password=settings.database_password.get_secret_value(),
        host=settings.database_host,
        port=settings.database_port,
        database=settings.database_name,
    )
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def make_read_only(connection: sa.Connection, database: str) -> None:
    """Refuse writes of new sessions, and end all present ones."""
    connection.execute(sa.text(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on'))
    connection.execute(_END_SESSIONS, {"name": database})


def make_writable(connection: sa.Connection, database: str) -> None:
    """Accept writes of new sessions. Present sessions stay read-only."""
    connection.execute(sa.text(f'ALTER DATABASE "{database}" RESET default_transaction_read_only'))


def install_regression_trigger(connection: sa.Connection) -> None:
    """Create the trigger that records each status that moves backwards."""
    connection.exec_driver_sql(_INSTALL_TRIGGER)


def status_regressions(connection: sa.Connection) -> list[Any] | None:
    """The recorded rows in their order; None if the trigger is not installed."""
    if not sa.inspect(connection).has_table(_REGRESSIONS_TABLE):
        return None
    return list(connection.execute(sa.text(f"SELECT * FROM {_REGRESSIONS_TABLE} ORDER BY id")))  # noqa: S608
