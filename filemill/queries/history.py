"""Who owned which partition when, and the operations on record, over a period.

Owners come from the workers' own events, because samples of the group miss a short rebalance. A member of the group
that sends no events (a foreign consumer) is known from the group monitor's samples.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.audit import DETAIL_WITH_OUTCOME
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.worker_events import EventKind, WorkerEvent
from filemill.queries.group import GroupMember

OPERATIONS_MAX = 200
# The newest events about owners; older ones are left out of the timeline.
OWNERSHIP_EVENTS_MAX = 5000
# The newest changes of the members in the samples, likewise.
ASSIGNMENT_CHANGES_MAX = 5000
# Samples are missing where two that follow each other are further apart than this.
SAMPLE_GAP = timedelta(seconds=10)
DEPLOYED = "deployed"


class OwnershipEvent(msgspec.Struct, frozen=True):
    """An event of a worker, and the time of its previous event (None: there is none within the period)."""

    event: WorkerEvent
    previous_event_at: datetime | None


class AssignmentSample(msgspec.Struct, frozen=True):
    """The members of the group in consecutive samples that agree, the first at `first_at`, the last at `last_at`.

    `next_at` is the time of the next sample, in which the members differ. None: there is none, or samples are missing.
    """

    first_at: datetime
    last_at: datetime
    next_at: datetime | None
    members: list[GroupMember]


class OwnershipHistory(msgspec.Struct, frozen=True):
    """Events about owners, oldest first; the first event of each worker may be a heartbeat from before the period.

    `last_heard` is the time of each worker's last event. `samples` are those of the group, oldest first.
    """

    since: datetime
    until: datetime
    events: list[OwnershipEvent]
    last_heard: dict[str, datetime]
    samples: list[AssignmentSample] = []


class AuditEntry(msgspec.Struct, frozen=True):
    """A row of the audit."""

    id: int
    at: datetime
    actor: str
    action: str
    detail: dict[str, Any]


_OWNERSHIP_EVENTS = sa.text("""
    WITH heard AS (
        SELECT body, kind, at, worker_id, lag(at) OVER of_worker AS before
        FROM worker_events
        WHERE at > now() - CAST(:period AS interval)
          AND (coalesce(body ->> 'queue', 'default') = :queue OR kind IN ('started', 'heartbeat', 'stopped'))
        WINDOW of_worker AS (PARTITION BY worker_id ORDER BY at, "offset")
    )
    SELECT * FROM (
        SELECT body, before, at FROM heard
        WHERE kind IN ('started', 'assigned', 'revoked', 'lost', 'stopped') OR before IS NULL
        UNION ALL
        SELECT * FROM (
            SELECT DISTINCT ON (worker_id) body, NULL::timestamptz, at FROM worker_events
            WHERE at <= now() - CAST(:period AS interval) AND at > now() - CAST(:period AS interval) - interval '1 min'
              AND (coalesce(body ->> 'queue', 'default') = :queue OR kind IN ('started', 'heartbeat', 'stopped'))
            ORDER BY worker_id, at DESC
        ) AS earlier
        ORDER BY at DESC LIMIT :most
    ) AS newest
    ORDER BY at
""")
_HEARD = sa.text("SELECT worker_id, heard_at FROM workers")
# Of consecutive samples that agree, the first; and the newest sample.
_ASSIGNMENTS = sa.text("""
    WITH compared AS (
        SELECT sampled_at AS at, members, lag(sampled_at) OVER times AS previous_at,
               lag(members) OVER times AS previous, lead(sampled_at) OVER times IS NULL AS newest
        FROM group_samples WHERE group_id = :group AND sampled_at > now() - CAST(:period AS interval)
        WINDOW times AS (ORDER BY sampled_at)
    )
    SELECT * FROM (
        SELECT at, previous_at, members, newest,
               previous_at IS NULL OR members <> previous OR at - previous_at > CAST(:gap AS interval) AS differs
        FROM compared
    ) AS marked
    WHERE differs OR newest ORDER BY at DESC LIMIT :most
""")
_NOW = sa.select(sa.func.now())


def ownership(connection: sa.Connection, group: str, period: timedelta, queue: str = DEFAULT_QUEUE) -> OwnershipHistory:
    """Events and samples about the owners of a queue's partitions over the last `period`. `group`: the queue's."""
    until = connection.execute(_NOW).scalar_one()
    wanted = {"period": period, "queue": queue, "most": OWNERSHIP_EVENTS_MAX}
    events = [
        OwnershipEvent(_in_queue(msgspec.convert(body, WorkerEvent), queue), before)
        for body, before, _ in connection.execute(_OWNERSHIP_EVENTS, wanted)
    ]
    heard = {row.worker_id: row.heard_at for row in connection.execute(_HEARD)}
    return OwnershipHistory(until - period, until, events, heard, _assignment_samples(connection, group, period))


def _in_queue(event: WorkerEvent, queue: str) -> WorkerEvent:
    """A heartbeat with the partitions of this queue: by itself it has those of `default`."""
    if event.kind is not EventKind.HEARTBEAT or queue == DEFAULT_QUEUE:
        return event
    parts = event.vitals.queues if event.vitals is not None else []
    owned, epoch = next(((part.owned, part.epoch) for part in parts if part.queue == queue), ([], None))
    return msgspec.structs.replace(event, owned=owned, epoch=epoch)


def _assignment_samples(connection: sa.Connection, group: str, period: timedelta) -> list[AssignmentSample]:
    wanted = {"group": group, "period": period, "gap": SAMPLE_GAP, "most": ASSIGNMENT_CHANGES_MAX}
    rows = connection.execute(_ASSIGNMENTS, wanted).all()
    found = []
    # Newest first. `later` is the row after this one: its previous sample is the last that agrees with this one.
    later = None
    for row in rows:
        if row.differs:
            last_at: datetime = row.at
            next_at: datetime | None = None
            if later is not None and later.differs:
                last_at = later.previous_at
                next_at = later.at if later.at - last_at <= SAMPLE_GAP else None
            elif later is not None:
                last_at = later.at
            found.append(AssignmentSample(row.at, last_at, next_at, msgspec.convert(row.members, list[GroupMember])))
        later = row
    return found[::-1]


_AUDIT_ENTRIES = sa.text(f"""
    SELECT id, at, actor, action, CASE WHEN pg_column_size(detail) < 2000 THEN {DETAIL_WITH_OUTCOME}
        ELSE detail - 'files' END
    FROM operations WHERE at > now() - CAST(:period AS interval) AND follows IS NULL ORDER BY id DESC LIMIT :most
""")  # noqa: S608 - text of this module
# Refused attempts and the requested end of a fault are not marked on charts.
_STACK_AUDIT_ENTRIES = sa.text(f"""
    SELECT id, at, actor, action, {DETAIL_WITH_OUTCOME}
    FROM operations
    WHERE at > now() - CAST(:period AS interval) AND follows IS NULL
        AND action NOT IN ('retry', 'cancel', 'delete', 'dlq.replay', 'refused', 'fault.end')
    ORDER BY id DESC LIMIT :most
""")  # noqa: S608 - text of this module


# Workers that started in another version than the worker that started before.
_DEPLOYMENTS = sa.text("""
    SELECT "offset", at, worker_id, version FROM (
        SELECT "offset", at, worker_id, body ->> 'version' AS version,
               lag(body ->> 'version') OVER (ORDER BY at, "offset") AS before
        FROM worker_events WHERE kind = 'started'
    ) AS starts
    WHERE version <> before AND at > now() - CAST(:period AS interval) ORDER BY at DESC LIMIT :most
""")


def audit_entries(connection: sa.Connection, period: timedelta) -> list[AuditEntry]:
    """The audit of the last `period`, newest first; long lists of files are left out."""
    return [AuditEntry(*row) for row in connection.execute(_AUDIT_ENTRIES, {"period": period, "most": OPERATIONS_MAX})]


def stack_audit_entries(connection: sa.Connection, period: timedelta) -> list[AuditEntry]:
    """Audit entries about workers, topics, the group and servers, not files: the annotations of a chart. Newest first.

    The start of a worker in a new version is an entry `deployed`; its `id` is the event's offset.
    """
    given = {"period": period, "most": OPERATIONS_MAX}
    acts = [AuditEntry(*row) for row in connection.execute(_STACK_AUDIT_ENTRIES, given)]
    acts += [
        AuditEntry(offset, at, worker, DEPLOYED, {"version": version})
        for offset, at, worker, version in connection.execute(_DEPLOYMENTS, given)
    ]
    return sorted(acts, key=lambda act: act.at, reverse=True)
