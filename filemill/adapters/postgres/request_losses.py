"""Lost requests, whose records are no longer on Kafka: found by their place there, counted, submitted again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from filemill.adapters.postgres.tables import RequestLoss, SyncPosition
from filemill.domain.file_actions import RUN_MAX
from filemill.domain.messages import new_traceparent
from filemill.domain.request_losses import LossBounds
from filemill.domain.worker_events import DEAD_AFTER_SECONDS

# A heartbeat, or the stored progress of a file, may be late by this much.
MAX_DELAY_SECONDS = 30

# A running worker with a record in progress since before the file's last change may still finish the file.
_LOST = """
    SELECT files.id FROM files
    JOIN publications AS place ON place.file_id = files.id AND place.run = files.run
    LEFT JOIN unnest(
        CAST(:partitions AS int[]), CAST(:removed AS bigint[]), CAST(:passed AS bigint[]), CAST(:ends AS bigint[])
    ) AS bound (partition, removed, passed, ending) ON bound.partition = place.partition
    WHERE files.status IN ('pending', 'processing') AND files.id > :after AND place.queue = :queue
        AND (
            place.generation <> :generation OR place."offset" < bound.removed
            OR place."offset" < bound.passed AND files.updated_at < now() - make_interval(secs => :late)
            OR place."offset" >= bound.ending AND place.published_at < now() - make_interval(secs => :late)
        )
        AND (CAST(:ids AS bigint[]) IS NULL OR files.id = ANY(CAST(:ids AS bigint[])))
        AND NOT EXISTS (SELECT FROM outbox WHERE outbox.file_id = files.id)
        AND NOT (files.status = 'processing' AND EXISTS (
            SELECT FROM workers WHERE workers.worker_id = files.worker_id AND workers.kind <> 'stopped'
                AND workers.heard_at > now() - make_interval(secs => :dead)
                AND CAST(workers.vitals ->> 'inFlight' AS int) > 0
                AND files.updated_at > now() - make_interval(
                    secs => coalesce(CAST(workers.vitals ->> 'oldestSeconds' AS float), 0) + :late)
        ))
"""
_PAGE = sa.text(f"{_LOST} ORDER BY files.id LIMIT :limit")
_COUNT = sa.text(f"SELECT count(*) FROM ({_LOST}) AS lost")  # noqa: S608 - text of this module
_RESUBMIT = sa.text(
    f"""
    WITH lost AS (
        SELECT id FROM files WHERE id IN ({_LOST}) AND run < :run_max ORDER BY id FOR UPDATE
    ), resubmitted AS (
        UPDATE files SET
            run = files.run + 1, status = 'pending', updated_at = now(), worker_id = NULL, kafka_partition = NULL,
            kafka_offset = NULL, attempt = NULL, step = NULL, steps = NULL, progress_at = NULL, started_at = NULL,
            finished_at = NULL, error = NULL, fraction = NULL, message = NULL
        FROM lost WHERE files.id = lost.id AND files.status IN ('pending', 'processing')
        RETURNING files.id, files.run, files.queue
    ), queued AS (
        INSERT INTO outbox (file_id, run, traceparent, queue)
        SELECT id, run, :traceparent, queue FROM resubmitted ORDER BY id
    )
    SELECT id, run FROM resubmitted ORDER BY id
"""  # noqa: S608 - text of this module
)

# A worker that is quiet, or waits for a server, may have fetched records that it has not started.
_ALIVE = sa.text("""
    SELECT worker_id, CAST(vitals ->> 'inFlight' AS int) > 0 AS busy,
        coalesce(CAST(vitals ->> 'quiet' AS boolean), false) OR vitals ->> 'breaker' IS NOT NULL AS waits,
        now() - make_interval(secs => coalesce(CAST(vitals ->> 'oldestSeconds' AS float), 0) + :late) AS since
    FROM workers
    WHERE kind <> 'stopped' AND vitals IS NOT NULL AND heard_at > now() - make_interval(secs => :dead)
""")


def busy_workers(connection: sa.Connection) -> tuple[dict[str, datetime], set[str]]:
    """The busy workers, each with the earliest start of its records; and the idle ones that wait for no server."""
    busy, idle = {}, set()
    for row in connection.execute(_ALIVE, {"late": MAX_DELAY_SECONDS, "dead": DEAD_AFTER_SECONDS}):
        if row.busy:
            busy[row.worker_id] = row.since
        elif not row.waits:
            idle.add(row.worker_id)
    return busy, idle


def applied_positions(connection: sa.Connection, topic: str, generation: int) -> dict[int, int]:
    """The next offset that the status sync reads, by partition, of a topic of `generation`."""
    query = sa.select(SyncPosition.partition, SyncPosition.next_offset).where(
        SyncPosition.topic == topic, SyncPosition.generation == generation
    )
    return {row.partition: row.next_offset for row in connection.execute(query)}


def lost_files(
    connection: sa.Connection, known: LossBounds, *, after: int = 0, limit: int = 1000, ids: Sequence[int] | None = None
) -> list[int]:
    """The files after the id `after` whose records are gone, ascending; with `ids`, only those of them."""
    return list(connection.execute(_PAGE, {**_parameters(known, ids, after), "limit": limit}).scalars())


def count_lost(connection: sa.Connection, known: LossBounds) -> int:
    """How many files have records that are gone. Scans all unfinished files."""
    return int(connection.execute(_COUNT, _parameters(known, None, 0)).scalar_one())


def resubmit_lost(connection: sa.Connection, known: LossBounds, ids: Sequence[int]) -> dict[int, int]:
    """Start a new run of those of the files whose records are gone; returns their ids, with the new runs."""
    parameters = {**_parameters(known, ids, 0), "traceparent": new_traceparent(), "run_max": RUN_MAX}
    return {row.id: row.run for row in connection.execute(_RESUBMIT, parameters)}


def store_lost_count(connection: sa.Connection, group: str, requests: int) -> None:
    """Store how many requests are gone, for the overview."""
    connection.execute(sa.delete(RequestLoss).where(RequestLoss.group_id == group))
    connection.execute(sa.insert(RequestLoss).values(group_id=group, requests=requests, counted_at=sa.func.now()))


def _parameters(known: LossBounds, ids: Sequence[int] | None, after: int) -> dict[str, Any]:
    partitions = sorted(known.removed)
    return {
        "partitions": partitions,
        "removed": [known.removed[partition] for partition in partitions],
        "passed": [known.passed.get(partition, 0) for partition in partitions],
        "ends": [known.ends[partition] for partition in partitions],
        "generation": known.generation,
        "queue": known.queue,
        "ids": None if ids is None else list(ids),
        "after": after,
        "late": MAX_DELAY_SECONDS,
        "dead": DEAD_AFTER_SECONDS,
    }
