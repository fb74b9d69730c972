"""Everything that is known about one file, over all its runs.

Events are kept for the monitor's retention; publications and the file's row are kept until the file is deleted.
"""

from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.audit import FAULT
from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.deliveries import (
    Delivery,
    DeliveryEvidence,
    RowDelivery,
    WorkerKill,
    WorkerSign,
    resolve_deliveries,
)
from filemill.domain.worker_events import EventKind, WorkerEvent
from filemill.queries.files import get_file

EVENTS_MAX = 200
# Events of the file's workers since its first delivery that are read at most.
SIGNS_MAX = 1000


class WaitingRequest(msgspec.Struct, frozen=True):
    """A request in the outbox. `publish_number`: its sequence number; None before the relay has claimed it.

    `ahead`: how many rows are before it in the outbox.
    """

    run: int
    accepted_at: datetime
    publish_number: int | None
    ahead: int


class PublishedRequest(msgspec.Struct, frozen=True):
    """The position of a run's request on `file.create`."""

    run: int
    publish_number: int
    partition: int
    offset: int
    published_at: datetime
    generation: int = 1  # of the topic


class FileOperation(msgspec.Struct, frozen=True):
    """A recorded operation on the file."""

    at: datetime
    actor: str
    action: str
    run: int


class FileTimeline(msgspec.Struct, frozen=True, kw_only=True):
    """A file and what happened to it. Of a deleted file only `deleted_at` and its title are known.

    `deliveries`: every delivery to a worker. One that lasted for less than a second and had no result is missing.
    """

    as_of: datetime
    file: FileRow | None
    deleted_at: datetime | None = None
    deleted_by: str | None = None
    deleted_title: str | None = None
    deleted_owner: str | None = None
    waiting: WaitingRequest | None = None
    publications: list[PublishedRequest] = []
    events: list[WorkerEvent] = []
    operations: list[FileOperation] = []
    deliveries: list[Delivery] = []

    @property
    def owner(self) -> str | None:
        """The owner of the file, also of a deleted one; None: it has none, or there was no such file."""
        return self.deleted_owner if self.file is None else self.file.owner


_OUTBOX = sa.text("""
    SELECT run, accepted_at, publish_number, (SELECT count(*) FROM outbox AS others WHERE others.id < mine.id)
    FROM outbox AS mine WHERE file_id = :file ORDER BY id DESC LIMIT 1
""")
_PUBLICATIONS = sa.text("""
    SELECT run, publish_number, partition, "offset", published_at, generation FROM publications
    WHERE file_id = :file ORDER BY publish_number DESC LIMIT :limit
""")
# A log can have 64 KiB; `filemill.queries.attempts` reads those that are shown.
_EVENTS = sa.text("SELECT body - 'log' FROM worker_events WHERE file_id = :file ORDER BY at DESC LIMIT :limit")
# Retries and cancellations name files as [id, run]. The containment test also finds the runs that equal the id.
_OPERATIONS = sa.text("""
    SELECT at, actor, action, (pair->>1)::int AS run
    FROM operations, jsonb_array_elements(detail->'files') AS pair
    WHERE detail @> jsonb_build_object('files', jsonb_build_array(jsonb_build_array(CAST(:file AS bigint))))
      AND jsonb_typeof(pair) = 'array' AND (pair->>0)::bigint = :file
    ORDER BY at DESC LIMIT :limit
""")
_DELETED = sa.text("SELECT deleted_at, title, owner FROM tombstones WHERE file_id = :file")
_DELETED_BY = sa.text("""
    SELECT actor FROM operations
    WHERE action = 'delete' AND detail @> jsonb_build_object('files', jsonb_build_array(CAST(:file AS bigint)))
    ORDER BY at DESC LIMIT 1
""")
_DELIVERIES = sa.text("""
    SELECT run, worker_id, partition, "offset", started_at, ended_at, outcome, repeated FROM deliveries
    WHERE file_id = :file AND worker_id IS NOT NULL ORDER BY started_at DESC LIMIT :limit
""")
# Only a start needs the event before it: the worker's process ended between the two.
_SIGNS = sa.text("""
    SELECT worker_id, kind, at, body -> 'partitions', CASE WHEN kind = 'started' THEN (
        SELECT max(at) FROM worker_events AS before
        WHERE before.worker_id = signs.worker_id AND before.at < signs.at AND before.at > signs.at - interval '1 hour'
    ) END
    FROM worker_events AS signs
    WHERE worker_id = ANY(CAST(:workers AS text[])) AND at >= :since
        AND kind IN ('started', 'revoked', 'lost', 'stopped')
    ORDER BY at LIMIT :most
""")
_HEARD = sa.text("SELECT worker_id, heard_at FROM workers WHERE worker_id = ANY(CAST(:workers AS text[]))")
# A command of the page, and a fault that it injected.
_KILLS = sa.text("""
    SELECT coalesce(detail ->> 'worker', detail ->> 'target'), at, actor FROM operations
    WHERE at >= :since AND (action = 'stack.kill' OR action = :fault AND detail ->> 'fault' = 'killed')
        AND coalesce(detail ->> 'worker', detail ->> 'target') = ANY(CAST(:workers AS text[]))
        AND follows IS NULL AND NOT detail ? 'refused'
        AND NOT EXISTS (
            SELECT FROM operations AS later WHERE later.follows = operations.id AND later.detail ? 'refused'
        )
    ORDER BY at
""")
_NOW = sa.select(sa.func.clock_timestamp())


def file_timeline(connection: sa.Connection, file_id: int) -> FileTimeline:
    """Read the timeline of a file. Takes a few milliseconds."""
    as_of = connection.execute(_NOW).scalar_one()
    file = get_file(connection, file_id)
    if file is None:
        return _deleted(connection, file_id, as_of)
    parameters: dict[str, Any] = {"file": file_id, "limit": EVENTS_MAX}
    waiting = connection.execute(_OUTBOX, {"file": file_id}).one_or_none()
    events = [msgspec.convert(body, WorkerEvent) for body in connection.execute(_EVENTS, parameters).scalars()][::-1]
    operations = [FileOperation(*row) for row in connection.execute(_OPERATIONS, parameters)][::-1]
    return FileTimeline(
        as_of=as_of,
        file=file,
        waiting=None if waiting is None else WaitingRequest(*waiting),
        publications=[PublishedRequest(*row) for row in connection.execute(_PUBLICATIONS, parameters)][::-1],
        events=events,
        operations=operations,
        deliveries=_deliveries(connection, file, events, operations, as_of),
    )


def _deleted(connection: sa.Connection, file_id: int, as_of: datetime) -> FileTimeline:
    row = connection.execute(_DELETED, {"file": file_id}).one_or_none()
    if row is None:
        return FileTimeline(as_of=as_of, file=None)
    actor = connection.execute(_DELETED_BY, {"file": file_id}).scalar_one_or_none()
    return FileTimeline(
        as_of=as_of,
        file=None,
        deleted_at=row.deleted_at,
        deleted_by=actor,
        deleted_title=row.title,
        deleted_owner=row.owner,
    )


def _deliveries(
    connection: sa.Connection,
    file: FileRow,
    events: list[WorkerEvent],
    operations: list[FileOperation],
    as_of: datetime,
) -> list[Delivery]:
    columns = ("run", "worker_id", "partition", "offset", "started_at", "ended_at", "outcome", "repeated")
    rows = connection.execute(_DELIVERIES, {"file": file.id, "limit": EVENTS_MAX})
    stored = [msgspec.convert(dict(zip(columns, row, strict=True)), Delivery) for row in rows]
    current = RowDelivery(
        run=file.run,
        status=file.status,
        worker_id=file.worker_id,
        partition=file.partition,
        offset=file.offset,
        started_at=file.started_at,
        finished_at=file.finished_at,
    )
    starts = [one.started_at for one in stored] + ([file.started_at] if file.started_at is not None else [])
    if not starts:
        return []
    workers = sorted({one.worker_id for one in stored} | ({file.worker_id} if file.worker_id is not None else set()))
    since = {"workers": workers, "since": min(starts)}
    evidence = DeliveryEvidence(
        events=events,
        signs=[
            WorkerSign(worker, EventKind(kind), at, partitions or [], before)
            for worker, kind, at, partitions, before in connection.execute(_SIGNS, {**since, "most": SIGNS_MAX})
        ],
        heard_at={row.worker_id: row.heard_at for row in connection.execute(_HEARD, {"workers": workers})},
        kills=[WorkerKill(*kill) for kill in connection.execute(_KILLS, {**since, "fault": FAULT})],
        cancelled_by={one.run: one.actor for one in operations if one.action == "cancel"},
    )
    return resolve_deliveries(stored, current, evidence, as_of)
