"""The audit: rows of `operations`, each of which says who changed what."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from filemill.adapters.postgres.tables import Operation
from filemill.domain.offsets import RecordedReset

# An operator reset the group's offsets; `detail` has the topic and [partition, old, new] of each changed partition.
OFFSETS_RESET = "offsets.reset"
# Somebody injected a fault into the embedded stack; `detail` has its key.
FAULT = "fault"

_RESETS = sa.text("""
    SELECT CAST(part ->> 0 AS integer), CAST(part ->> 1 AS bigint), CAST(part ->> 2 AS bigint), extract(epoch FROM at)
    FROM operations, jsonb_array_elements(detail -> 'partitions') AS part
    WHERE action = :action AND detail ->> 'group' = :group AND detail ->> 'topic' = :topic
        AND NOT detail ? 'refused'
    ORDER BY id
""")


def insert_operation(connection: sa.Connection, actor: str, action: str, detail: Mapping[str, Any]) -> int:
    """Insert a row; returns its id."""
    values = {"actor": actor, "action": action, "detail": dict(detail)}
    return int(connection.execute(sa.insert(Operation).values(values).returning(Operation.id)).scalar_one())


def mark_refused(connection: sa.Connection, operation: int, reason: str) -> None:
    """Note on a row that its operation was refused after all."""
    refused = Operation.detail.concat({"refused": reason})
    connection.execute(sa.update(Operation).where(Operation.id == operation).values(detail=refused))


def complete_fault(connection: sa.Connection, key: str, more: Mapping[str, Any]) -> None:
    """Add to the row of a fault that has not ended; does nothing if it has."""
    detail = Operation.detail
    row = sa.and_(Operation.action == FAULT, detail["key"].astext == key, ~detail.has_key("ended"))
    connection.execute(sa.update(Operation).where(row).values(detail=detail.concat(dict(more))))


def offset_resets(connection: sa.Connection, group: str, topic: str) -> list[RecordedReset]:
    """The recorded resets of the group's offsets on a topic, oldest first; those that were refused are left out."""
    wanted = {"action": OFFSETS_RESET, "group": group, "topic": topic}
    return [RecordedReset(part, old, new, float(at)) for part, old, new, at in connection.execute(_RESETS, wanted)]
