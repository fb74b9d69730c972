"""Everything that is known about one file, over all its runs.

Events are kept for the monitor's retention; publications and the file's row are kept until the file is deleted.
"""

from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.worker_events import WorkerEvent
from filemill.queries.files import get_file

EVENTS_MAX = 200


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
    """A file and what happened to it. Of a deleted file only `deleted_at` is known."""

    as_of: datetime
    file: FileRow | None
    deleted_at: datetime | None = None
    waiting: WaitingRequest | None = None
    publications: list[PublishedRequest] = []
    events: list[WorkerEvent] = []
    operations: list[FileOperation] = []


_OUTBOX = sa.text("""
    SELECT run, accepted_at, publish_number, (SELECT count(*) FROM outbox AS others WHERE others.id < mine.id)
    FROM outbox AS mine WHERE file_id = :file ORDER BY id DESC LIMIT 1
""")
_PUBLICATIONS = sa.text("""
    SELECT run, publish_number, partition, "offset", published_at, generation FROM publications
    WHERE file_id = :file ORDER BY publish_number DESC LIMIT :limit
""")
_EVENTS = sa.text("SELECT body FROM worker_events WHERE file_id = :file ORDER BY at DESC LIMIT :limit")
# Retries and cancellations name files as [id, run]. The containment test also finds the runs that equal the id.
_OPERATIONS = sa.text("""
    SELECT at, actor, action, (pair->>1)::int AS run
    FROM operations, jsonb_array_elements(detail->'files') AS pair
    WHERE detail @> jsonb_build_object('files', jsonb_build_array(jsonb_build_array(CAST(:file AS bigint))))
      AND jsonb_typeof(pair) = 'array' AND (pair->>0)::bigint = :file
    ORDER BY at DESC LIMIT :limit
""")
_DELETED = sa.text("SELECT deleted_at FROM tombstones WHERE file_id = :file")
_NOW = sa.select(sa.func.clock_timestamp())


def file_timeline(connection: sa.Connection, file_id: int) -> FileTimeline:
    """Read the timeline of a file. Takes a few milliseconds."""
    as_of = connection.execute(_NOW).scalar_one()
    file = get_file(connection, file_id)
    if file is None:
        deleted_at = connection.execute(_DELETED, {"file": file_id}).scalar_one_or_none()
        return FileTimeline(as_of=as_of, file=None, deleted_at=deleted_at)
    parameters: dict[str, Any] = {"file": file_id, "limit": EVENTS_MAX}
    waiting = connection.execute(_OUTBOX, {"file": file_id}).one_or_none()
    return FileTimeline(
        as_of=as_of,
        file=file,
        waiting=None if waiting is None else WaitingRequest(*waiting),
        publications=[PublishedRequest(*row) for row in connection.execute(_PUBLICATIONS, parameters)][::-1],
        events=[msgspec.convert(body, WorkerEvent) for body in connection.execute(_EVENTS, parameters).scalars()][::-1],
        operations=[FileOperation(*row) for row in connection.execute(_OPERATIONS, parameters)][::-1],
    )
