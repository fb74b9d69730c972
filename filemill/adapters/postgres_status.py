"""Applying events to rows: batched, monotonic, and together with the position up to which they were read."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres_events import store_events
from filemill.adapters.postgres_lease import PostgresLease
from filemill.adapters.tables import Tombstone
from filemill.files import Change, fold
from filemill.ports import Applied, HeardEvent, Rejected

# The rule of filemill.files.supersedes, on a batch. Rows are locked in the order of their ids (`fold` sorts), so that
# two batches cannot wait for each other. A new run forgets what the last one left; within a run, what the new statement
# does not say stays.
_APPLY = sa.text("""
    WITH given AS (
        SELECT * FROM json_to_recordset(CAST(:changes AS json)) AS given (
            file_id bigint, run int, status text, at timestamptz, s3_location text, sha256 text, size bigint,
            worker_id text, partition int, "offset" bigint, attempt int, step int, steps int, started_at timestamptz,
            error text
        )
    ), ranked AS (
        SELECT given.*, (CASE status WHEN 'pending' THEN 0 WHEN 'processing' THEN 1 ELSE 2 END) AS rank FROM given
    ), standing AS (
        SELECT files.id, files.run, files.progress_at,
               (CASE files.status WHEN 'pending' THEN 0 WHEN 'processing' THEN 1 ELSE 2 END) AS rank
        FROM files JOIN given ON given.file_id = files.id ORDER BY files.id FOR UPDATE OF files
    ), changed AS (
        UPDATE files SET
            run = coalesce(ranked.run, files.run),
            status = ranked.status,
            updated_at = now(),
            s3_location = coalesce(ranked.s3_location, CASE WHEN ranked.rank = 2 THEN NULL ELSE files.s3_location END),
            worker_id = CASE WHEN ranked.rank = 2 THEN ranked.worker_id
                             ELSE coalesce(ranked.worker_id, files.worker_id) END,
            kafka_partition = coalesce(ranked.partition, files.kafka_partition),
            kafka_offset = coalesce(ranked."offset", files.kafka_offset),
            attempt = coalesce(ranked.attempt, files.attempt),
            step = CASE WHEN ranked.status = 'completed' THEN coalesce(ranked.steps, files.steps)
                        ELSE coalesce(ranked.step, files.step) END,
            steps = coalesce(ranked.steps, files.steps),
            progress_at = CASE WHEN ranked.rank = 1 THEN ranked.at ELSE files.progress_at END,
            started_at = coalesce(ranked.started_at, files.started_at),
            finished_at = CASE WHEN ranked.rank = 2 THEN ranked.at END,
            sha256 = CASE WHEN ranked.rank = 2 THEN ranked.sha256 ELSE files.sha256 END,
            size = CASE WHEN ranked.rank = 2 THEN ranked.size ELSE files.size END,
            error = ranked.error
        FROM ranked, standing
        WHERE files.id = ranked.file_id AND standing.id = ranked.file_id AND (
            coalesce(ranked.run, standing.run) > standing.run
            OR coalesce(ranked.run, standing.run) = standing.run AND (
                ranked.rank > standing.rank
                OR ranked.rank = 1 AND standing.rank = 1
                   AND (standing.progress_at IS NULL OR ranked.at >= standing.progress_at)
            )
        )
        RETURNING files.id
    )
    SELECT given.file_id, standing.id IS NOT NULL, changed.id IS NOT NULL
    FROM given LEFT JOIN standing ON standing.id = given.file_id LEFT JOIN changed ON changed.id = given.file_id
""")
_POSITIONS = sa.text("SELECT topic, partition, next_offset FROM sync_positions")
_MOVE = sa.text("""
    INSERT INTO sync_positions (topic, partition, next_offset)
    SELECT * FROM unnest(CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]))
    ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset
""")
_REJECT = sa.text("""
    INSERT INTO rejected_messages (topic, partition, "offset", reason)
    VALUES (:topic, :partition, :offset, :reason) ON CONFLICT DO NOTHING
""")


class PostgresStatusStore:
    """The rows of one database, for the holder of `lease`. (port: StatusStore)."""

    def __init__(self, engine: sa.Engine, lease: PostgresLease) -> None:
        self._engine = engine
        self._lease = lease

    def positions(self) -> dict[tuple[str, int], int]:
        """The next offset to read, by topic and partition."""
        with self._engine.connect() as connection:
            return {(topic, partition): offset for topic, partition, offset in connection.execute(_POSITIONS)}

    def apply(
        self,
        changes: Sequence[Change],
        positions: Mapping[tuple[str, int], int],
        rejected: Sequence[Rejected] = (),
        events: Sequence[HeardEvent] = (),
    ) -> Applied:
        """Apply what supersedes, store events and move the positions, in one transaction."""
        with self._engine.begin() as connection:
            self._lease.fence(connection)
            applied = apply_changes(connection, changes)
            store_events(connection, events)
            if positions:
                connection.execute(
                    _MOVE,
                    {
                        "topics": [topic for topic, _ in positions],
                        "partitions": [partition for _, partition in positions],
                        "offsets": list(positions.values()),
                    },
                )
            if rejected:
                connection.execute(
                    _REJECT,
                    [
                        {"topic": row.topic, "partition": row.partition, "offset": row.offset, "reason": row.reason}
                        for row in rejected
                    ],
                )
        return applied


def apply_changes(connection: sa.Connection, changes: Sequence[Change]) -> Applied:
    """Apply a batch in the caller's transaction; changes without a run go last: they mean the then current one."""
    changed, unknown = 0, []
    for _, group in groupby(fold(list(changes)), key=lambda change: change.run is None):
        for file_id, known, was_changed in connection.execute(_APPLY, {"changes": _json(list(group))}):
            changed += was_changed
            if not known:
                unknown.append(file_id)
    if unknown:
        deleted = sa.select(Tombstone.file_id).where(Tombstone.file_id.in_(unknown))
        unknown = sorted(set(unknown) - set(connection.execute(deleted).scalars()))
    return Applied(changed, unknown)


def _json(changes: list[Change]) -> str:
    """A batch as one parameter: fifteen arrays took Python longer than all else that it does for the batch."""
    return msgspec.json.encode(changes).decode()
