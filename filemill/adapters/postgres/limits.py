"""The usage of limits: one row for each person or address."""

from datetime import timedelta

import sqlalchemy as sa

from filemill.domain.limits import Usage

# Rows that were not used for longer say nothing any more: the day of their bytes is over.
KEPT = timedelta(days=2)
_LOCK = sa.text("""
    INSERT INTO limit_usage (key) VALUES (:key)
    ON CONFLICT (key) DO UPDATE SET used_at = now()
    RETURNING next_at, day, bytes, extract(epoch FROM clock_timestamp())
""")
_READ = sa.text("SELECT next_at, day, bytes, extract(epoch FROM clock_timestamp()) FROM limit_usage WHERE key = :key")
_NOW = sa.text("SELECT extract(epoch FROM clock_timestamp())")
_STORE = sa.text("UPDATE limit_usage SET next_at = :next_at, day = :day, bytes = :bytes WHERE key = :key")
_DELETE_OLD = sa.text("""
    DELETE FROM limit_usage WHERE key IN (
        SELECT key FROM limit_usage WHERE used_at < now() - CAST(:kept AS interval) LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
""")
# The condition is that of the index.
_IN_FLIGHT = sa.text("""
    SELECT count(*) FROM (
        SELECT FROM files
        WHERE owner = :owner AND status IN ('pending', 'processing') AND strpos(owner, 'rest:') <> 1 LIMIT :most
    ) AS found
""")
_IN_FLIGHT_WITHOUT_SIGN_IN = sa.text("""
    SELECT count(*) FROM (
        SELECT FROM files WHERE owner = :owner AND status IN ('pending', 'processing') LIMIT :most
    ) AS found
""")


def lock_usage(connection: sa.Connection, key: str) -> tuple[Usage, float]:
    """The usage of a principal without its files, and the time in seconds since the epoch.

    Others that want it wait until the end of the transaction, and then see what this one stored.
    """
    next_at, day, size, now = connection.execute(_LOCK, {"key": key}).one()
    return Usage(next_at, day, size), float(now)


def read_usage(connection: sa.Connection, key: str) -> tuple[Usage, float]:
    """The same without a lock, for a page."""
    row = connection.execute(_READ, {"key": key}).one_or_none()
    if row is None:
        return Usage(), float(connection.execute(_NOW).scalar_one())
    return Usage(row[0], row[1], row[2]), float(row[3])


def store_usage(connection: sa.Connection, key: str, usage: Usage) -> None:
    """Store the usage of a principal whose row is locked."""
    given = {"next_at": usage.next_at, "day": usage.day, "bytes": usage.bytes}
    connection.execute(_STORE, {"key": key, **given})


def delete_unused(connection: sa.Connection) -> None:
    """Delete rows that were not used for two days. It waits for no other transaction."""
    connection.execute(_DELETE_OLD, {"kept": KEPT})


def files_in_flight(connection: sa.Connection, owner: str, most: int) -> int:
    """How many files of the owner are pending or processing; `most` stands for that many or more."""
    statement = _IN_FLIGHT_WITHOUT_SIGN_IN if owner.startswith("rest:") else _IN_FLIGHT
    return int(connection.execute(statement, {"owner": owner, "most": most}).scalar_one())
