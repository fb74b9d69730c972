"""What people and programs look at: who owned which partition when, and what people did, over a period.

Owners are as the workers tell it themselves: polling the group would miss a short rebalance.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.domain.worker_events import WorkerEvent

OPERATIONS_MAX = 200
# The newest events that tell of owners: what is older is left out of the timeline.
TOLD_MAX = 5000
DEPLOYED = "deployed"


class Told(msgspec.Struct, frozen=True):
    """An event of a worker, and when it was heard of before that (None: not within the period)."""

    event: WorkerEvent
    heard_before: datetime | None


class Ownership(msgspec.Struct, frozen=True):
    """Events that tell of owners, oldest first; the first of each worker may be a heartbeat from before the period.

    `heard` is when each worker was last heard of.
    """

    since: datetime
    until: datetime
    told: list[Told]
    heard: dict[str, datetime]


class Act(msgspec.Struct, frozen=True):
    """What somebody did, for the record."""

    id: int
    at: datetime
    actor: str
    action: str
    detail: dict[str, Any]


_TOLD = sa.text("""
    WITH heard AS (
        SELECT body, kind, at, worker_id, lag(at) OVER of_worker AS before
        FROM worker_events WHERE at > now() - CAST(:period AS interval)
        WINDOW of_worker AS (PARTITION BY worker_id ORDER BY at, "offset")
    )
    SELECT * FROM (
        SELECT body, before, at FROM heard
        WHERE kind IN ('started', 'assigned', 'revoked', 'lost', 'stopped') OR before IS NULL
        UNION ALL
        SELECT * FROM (
            SELECT DISTINCT ON (worker_id) body, NULL::timestamptz, at FROM worker_events
            WHERE at <= now() - CAST(:period AS interval) AND at > now() - CAST(:period AS interval) - interval '1 min'
            ORDER BY worker_id, at DESC
        ) AS earlier
        ORDER BY at DESC LIMIT :most
    ) AS newest
    ORDER BY at
""")
_HEARD = sa.text("SELECT worker_id, heard_at FROM workers")
_NOW = sa.select(sa.func.now())


def ownership(connection: sa.Connection, period: timedelta) -> Ownership:
    """What workers told of their partitions over the last `period`."""
    until = connection.execute(_NOW).scalar_one()
    told = [
        Told(msgspec.convert(body, WorkerEvent), before)
        for body, before, _ in connection.execute(_TOLD, {"period": period, "most": TOLD_MAX})
    ]
    heard = {row.worker_id: row.heard_at for row in connection.execute(_HEARD)}
    return Ownership(until - period, until, told, heard)


_ACTS = sa.text("""
    SELECT id, at, actor, action, CASE WHEN pg_column_size(detail) < 2000 THEN detail ELSE detail - 'files' END
    FROM operations WHERE at > now() - CAST(:period AS interval) ORDER BY id DESC LIMIT :most
""")
_STACK_ACTS = sa.text("""
    SELECT id, at, actor, action, detail
    FROM operations
    WHERE at > now() - CAST(:period AS interval) AND action NOT IN ('retry', 'cancel', 'delete', 'dlq.replay')
    ORDER BY id DESC LIMIT :most
""")


# The first worker that starts in another version than the one that started before it.
_DEPLOYMENTS = sa.text("""
    SELECT "offset", at, worker_id, version FROM (
        SELECT "offset", at, worker_id, body ->> 'version' AS version,
               lag(body ->> 'version') OVER (ORDER BY at, "offset") AS before
        FROM worker_events WHERE kind = 'started'
    ) AS starts
    WHERE version <> before AND at > now() - CAST(:period AS interval) ORDER BY at DESC LIMIT :most
""")


def operations(connection: sa.Connection, period: timedelta) -> list[Act]:
    """What people did, newest first; long lists of files left out."""
    return [Act(*row) for row in connection.execute(_ACTS, {"period": period, "most": OPERATIONS_MAX})]


def stack_operations(connection: sa.Connection, period: timedelta) -> list[Act]:
    """What people did to workers, topics and the group, but not to files: what marks a chart. Newest first.

    A deployment is the start of a worker in another version; its `id` is the event's offset.
    """
    given = {"period": period, "most": OPERATIONS_MAX}
    acts = [Act(*row) for row in connection.execute(_STACK_ACTS, given)]
    acts += [
        Act(offset, at, worker, DEPLOYED, {"version": version})
        for offset, at, worker, version in connection.execute(_DEPLOYMENTS, given)
    ]
    return sorted(acts, key=lambda act: act.at, reverse=True)
