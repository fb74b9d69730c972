"""Statements that retry, cancel and delete files, and find those that are unfinished."""

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa
import structlog

from filemill.adapters.postgres.status_store import foreign_key_holders
from filemill.adapters.postgres.tables import File, Tombstone
from filemill.domain.file_actions import RUN_MAX
from filemill.domain.files import InvalidObjectKey, Status, check_key_owner
from filemill.domain.messages import new_traceparent

log = structlog.get_logger("operations")

_RETRY = sa.text("""
    WITH ended AS (
        SELECT * FROM files WHERE id = ANY(CAST(:ids AS bigint[])) AND status IN ('failed', 'cancelled')
            AND run < :run_max ORDER BY id FOR UPDATE
    ), delivered AS (
        INSERT INTO deliveries
            (file_id, run, worker_id, partition, "offset", stated_start, started_at, ended_at, outcome)
        SELECT id, run, worker_id, kafka_partition, kafka_offset, started_at, started_at, finished_at, status
        FROM ended WHERE started_at IS NOT NULL AND worker_id IS NOT NULL
        ON CONFLICT DO NOTHING
    ), retried AS (
        UPDATE files SET
            run = files.run + 1, status = 'pending', updated_at = now(), worker_id = NULL, kafka_partition = NULL,
            kafka_offset = NULL, attempt = NULL, step = NULL, steps = NULL, progress_at = NULL, started_at = NULL,
            finished_at = NULL, error = NULL, fraction = NULL, message = NULL
        FROM ended WHERE files.id = ended.id
        RETURNING files.id, files.run, files.queue
    ), queued AS (
        INSERT INTO outbox (file_id, run, traceparent, queue)
        SELECT id, run, :traceparent, queue FROM retried ORDER BY id
    )
    SELECT id, run FROM retried ORDER BY id
""")
# An unpublished request is deleted from the outbox. For a published one the caller sends a command to the workers.
_CANCEL = sa.text("""
    WITH cancelled AS (
        UPDATE files SET status = 'cancelled', updated_at = now(), finished_at = now()
        WHERE id IN (SELECT id FROM files WHERE id = ANY(CAST(:ids AS bigint[]))
                     AND status IN ('pending', 'processing') ORDER BY id FOR UPDATE)
        RETURNING id, run
    ), dequeued AS (
        DELETE FROM outbox USING cancelled
        WHERE outbox.file_id = cancelled.id AND outbox.run = cancelled.run AND outbox.publish_number IS NULL
        RETURNING outbox.file_id
    )
    SELECT id, run, id IN (SELECT file_id FROM dequeued) FROM cancelled ORDER BY id
""")
_DELETE = sa.text("""
    WITH deleted AS (
        DELETE FROM files
        WHERE id IN (SELECT id FROM files WHERE id = ANY(CAST(:ids AS bigint[]))
                     AND status IN ('completed', 'failed', 'cancelled')
                     AND NOT EXISTS (SELECT FROM outbox WHERE outbox.file_id = files.id) ORDER BY id FOR UPDATE)
        RETURNING *
    ), tombstoned AS (
        INSERT INTO tombstones (file_id, run, status, s3_location, created_at, started_at, finished_at, worker_id,
                                kafka_partition, title, handler, queue, owner)
        SELECT id, run, status, s3_location, created_at, started_at, finished_at, worker_id, kafka_partition, title,
               handler, queue, owner
        FROM deleted
    )
    SELECT id, s3_location FROM deleted ORDER BY id
""")


# A record without a run stands for the row's current run.
_UNFINISHED = sa.text("""
    SELECT DISTINCT files.id FROM files
    JOIN unnest(CAST(:ids AS bigint[]), CAST(:runs AS integer[])) AS wanted (id, run) ON wanted.id = files.id
    WHERE files.status IN ('pending', 'processing') AND files.run = coalesce(wanted.run, files.run)
    ORDER BY files.id
""")


class CancelledRun(msgspec.Struct, frozen=True):
    """A run that was cancelled; `published`: its request is on Kafka, or will be, so that a worker may process it."""

    file_id: int
    run: int
    published: bool


def retry_files(connection: sa.Connection, ids: Sequence[int]) -> dict[int, int]:
    """Start a new run of each of the files that failed or was cancelled; returns their ids, with the new runs."""
    rows = connection.execute(_RETRY, {"ids": list(ids), "traceparent": new_traceparent(), "run_max": RUN_MAX})
    return {row.id: row.run for row in rows}


def cancel_files(connection: sa.Connection, ids: Sequence[int]) -> list[CancelledRun]:
    """Cancel those of the files that are pending or processing."""
    rows = connection.execute(_CANCEL, {"ids": list(ids)})
    return [CancelledRun(file_id, run, not dequeued) for file_id, run, dequeued in rows]


def delete_files(connection: sa.Connection, ids: Sequence[int]) -> dict[int, str | None]:
    """Delete those of the files that are in a final status, leaving tombstones.

    Returns the keys of their objects, for the caller to delete. None: there is no object, or the key belongs to another
    file. The status store refuses such keys, but rows of older versions may have one.
    """
    rows = connection.execute(_DELETE, {"ids": list(ids)})
    return _own_keys(connection, {row.id: row.s3_location for row in rows})


def deleted_files(connection: sa.Connection, ids: Sequence[int]) -> list[list[object]]:
    """Id, former status and title of those of the files that were deleted, by id."""
    if not ids:
        return []
    wanted = Tombstone.file_id == sa.func.any(sa.bindparam("ids", list(ids)))
    found = sa.select(Tombstone.file_id, Tombstone.status, Tombstone.title).where(wanted).order_by(Tombstone.file_id)
    return [list(row) for row in connection.execute(found)]


def statuses_and_runs(connection: sa.Connection, ids: Sequence[int]) -> dict[int, tuple[Status, int]]:
    """Status and run of those of the files that exist."""
    if not ids:
        return {}
    found = sa.select(File.id, File.status, File.run).where(File.id == sa.func.any(sa.bindparam("ids", list(ids))))
    return {row.id: (Status(row.status), row.run) for row in connection.execute(found)}


def owners_of(connection: sa.Connection, ids: Sequence[int]) -> dict[int, str | None]:
    """The owners of those of the files that exist; None: no owner. An owner never changes."""
    found = sa.select(File.id, File.owner).where(File.id == sa.func.any(sa.bindparam("ids", list(ids))))
    return {row.id: row.owner for row in connection.execute(found)}


def _own_keys(connection: sa.Connection, keys: Mapping[int, str | None]) -> dict[int, str | None]:
    """The keys of deleted files; None for a key that belongs to a remaining file."""
    own, foreign = dict(keys), dict[int, str]()
    for file_id, key in keys.items():
        try:
            canonical = check_key_owner(file_id, key) if key is not None else None
        except InvalidObjectKey as error:
            log.warning(
                "Kept the object of a deleted file: the key belongs to another file", file=file_id, reason=str(error)
            )
            own[file_id] = None
        else:
            if canonical is not None:
                foreign[file_id] = canonical
    holders = foreign_key_holders(connection, sorted(set(foreign.values()))) if foreign else {}
    for file_id, canonical in foreign.items():
        if others := holders.get(canonical):
            log.warning(
                "Kept the object of a deleted file: another file has the same key", file=file_id, other=min(others)
            )
            own[file_id] = None
    return own


def unfinished_runs(connection: sa.Connection, runs: Sequence[tuple[int, int | None]]) -> list[int]:
    """The files, of these (file, run), whose run is unfinished; a run of None stands for the row's current run."""
    columns = {"ids": [file_id for file_id, _ in runs], "runs": [run for _, run in runs]}
    return list(connection.execute(_UNFINISHED, columns).scalars())
