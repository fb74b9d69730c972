"""Which dead letters need no action: rows that name a record of their topic."""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from filemill.adapters.postgres.tables import DeadLetterDismissal
from filemill.domain.dead_letters import DismissalKey

_KEY = sa.tuple_(DeadLetterDismissal.partition, DeadLetterDismissal.offset, DeadLetterDismissal.timestamp_ms)


def insert_dismissals(connection: sa.Connection, keys: Collection[DismissalKey], actor: str) -> None:
    """Store dismissals. One for a record of an earlier topic at the same position is replaced."""
    rows = [
        {"partition": partition, "offset": offset, "timestamp_ms": timestamp, "actor": actor}
        for partition, offset, timestamp in keys
    ]
    if rows:
        statement = insert(DeadLetterDismissal)
        new = statement.excluded
        changed = {"timestamp_ms": new.timestamp_ms, "actor": new.actor, "dismissed_at": sa.func.now()}
        upsert = statement.on_conflict_do_update(index_elements=["partition", "offset"], set_=changed)
        connection.execute(upsert, rows)


def delete_dismissals(connection: sa.Connection, keys: Collection[DismissalKey]) -> None:
    """Remove dismissals; those that do not exist are ignored."""
    if keys:
        connection.execute(sa.delete(DeadLetterDismissal).where(_KEY.in_(list(keys))))
