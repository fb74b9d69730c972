"""The audit: rows of `operations`, each of which says who changed what."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from filemill.adapters.postgres.tables import Operation
from filemill.domain.offsets import RecordedReset
from filemill.domain.permissions import RequestSource

# An operator reset the group's offsets; `detail` has the topic and [partition, old, new] of each changed partition.
OFFSETS_RESET = "offsets.reset"
# What later rows add to an operation: that it was refused after all, or when a fault ended.
DETAIL_WITH_OUTCOME = """
    detail || coalesce((
        SELECT jsonb_object_agg(added.key, added.value ORDER BY later.sequence)
        FROM operations AS later, jsonb_each(later.detail) AS added WHERE later.follows = operations.id
    ), jsonb_build_object())
"""
# Somebody injected a fault into the embedded stack; `detail` has its key.
FAULT = "fault"

_RESETS = sa.text("""
    SELECT CAST(part ->> 0 AS integer), CAST(part ->> 1 AS bigint), CAST(part ->> 2 AS bigint), extract(epoch FROM at)
    FROM operations, jsonb_array_elements(detail -> 'partitions') AS part
    WHERE action = :action AND follows IS NULL AND detail ->> 'group' = :group AND detail ->> 'topic' = :topic
        AND NOT detail ? 'refused'
        AND NOT EXISTS (
            SELECT FROM operations AS later WHERE later.follows = operations.id AND later.detail ? 'refused'
        )
    ORDER BY sequence
""")
_FAULT = sa.text("""
    SELECT id FROM operations
    WHERE action = :action AND follows IS NULL AND detail @> :detail AND NOT detail ? 'ended'
        AND NOT EXISTS (
            SELECT FROM operations AS later WHERE later.follows = operations.id AND later.detail ? 'ended'
        )
    ORDER BY sequence LIMIT 1
""").bindparams(sa.bindparam("detail", type_=JSONB))


def insert_operation(
    connection: sa.Connection,
    actor: str,
    action: str,
    detail: Mapping[str, Any],
    source: RequestSource,
    *,
    follows: int | None = None,
) -> int:
    """Insert a row; returns its id. A trigger chains it, and holds the lock of the chain until the commit."""
    values = {
        "actor": actor,
        "action": action,
        "detail": dict(detail),
        "authentication": source.authentication or None,
        "address": source.address or None,
        "request_id": source.request_id or None,
        "follows": follows,
    }
    return int(connection.execute(sa.insert(Operation).values(values).returning(Operation.id)).scalar_one())


def fault_without_end(connection: sa.Connection, key: str) -> int | None:
    """The id of the row of a fault whose end is not recorded; None: there is none."""
    return connection.execute(_FAULT, {"action": FAULT, "detail": {"key": key}}).scalar_one_or_none()


def offset_resets(connection: sa.Connection, group: str, topic: str) -> list[RecordedReset]:
    """The recorded resets of the group's offsets on a topic, oldest first; those that were refused are left out."""
    wanted = {"action": OFFSETS_RESET, "group": group, "topic": topic}
    return [RecordedReset(part, old, new, float(at)) for part, old, new, at in connection.execute(_RESETS, wanted)]
