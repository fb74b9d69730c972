"""Requests whose records are gone from Kafka: found by where they were published, counted, and submitted again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from filemill.adapters.kafka.admin import GroupDescription, KafkaAdmin, PartitionOffsets
from filemill.adapters.postgres.operations import RUN_MAX, record
from filemill.adapters.postgres.tables import RequestLoss, SyncPosition
from filemill.adapters.postgres.topics import register
from filemill.config.settings import Settings
from filemill.domain.messages import new_traceparent
from filemill.domain.request_losses import Bounds, Span, bounds, results_applied
from filemill.domain.worker_events import DEAD_AFTER_SECONDS
from filemill.errors import Unavailable

RESUBMIT = "resubmit"
# A worker's heartbeat, and the sync that stores its progress, may be late by this much.
LATE_SECONDS = 30

# A worker that lives, and has something in progress for as long as that file: it may still finish it.
_GONE = """
    SELECT files.id FROM files
    JOIN publications AS place ON place.file_id = files.id AND place.run = files.run
    LEFT JOIN unnest(
        CAST(:partitions AS int[]), CAST(:removed AS bigint[]), CAST(:passed AS bigint[]), CAST(:ends AS bigint[])
    ) AS bound (partition, removed, passed, ending) ON bound.partition = place.partition
    WHERE files.status IN ('pending', 'processing') AND files.id > :after
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
_PAGE = sa.text(f"{_GONE} ORDER BY files.id LIMIT :limit")
_COUNT = sa.text(f"SELECT count(*) FROM ({_GONE}) AS gone")  # noqa: S608 - text of this module
_RESUBMIT = sa.text(
    f"""
    WITH gone AS (
        SELECT id FROM files WHERE id IN ({_GONE}) AND run < :run_max ORDER BY id FOR UPDATE
    ), again AS (
        UPDATE files SET
            run = files.run + 1, status = 'pending', updated_at = now(), worker_id = NULL, kafka_partition = NULL,
            kafka_offset = NULL, attempt = NULL, step = NULL, steps = NULL, progress_at = NULL, started_at = NULL,
            finished_at = NULL, error = NULL
        FROM gone WHERE files.id = gone.id AND files.status IN ('pending', 'processing')
        RETURNING files.id, files.run
    ), queued AS (
        INSERT INTO outbox (file_id, run, traceparent) SELECT id, run, :traceparent FROM again ORDER BY id
    )
    SELECT id, run FROM again ORDER BY id
"""  # noqa: S608 - text of this module
)

# A worker that is quiet, or waits for a server, may hold what it has read and not begun.
_ALIVE = sa.text("""
    SELECT worker_id, CAST(vitals ->> 'inFlight' AS int) > 0 AS busy,
        coalesce(CAST(vitals ->> 'quiet' AS boolean), false) OR vitals ->> 'breaker' IS NOT NULL AS waits,
        now() - make_interval(secs => coalesce(CAST(vitals ->> 'oldestSeconds' AS float), 0) + :late) AS since
    FROM workers
    WHERE kind <> 'stopped' AND vitals IS NOT NULL AND heard_at > now() - make_interval(secs => :dead)
""")


def busy_workers(connection: sa.Connection) -> tuple[dict[str, datetime], set[str]]:
    """Workers with something in progress, and since when at most; and those that have nothing and wait for nothing."""
    busy, idle = {}, set()
    for row in connection.execute(_ALIVE, {"late": LATE_SECONDS, "dead": DEAD_AFTER_SECONDS}):
        if row.busy:
            busy[row.worker_id] = row.since
        elif not row.waits:
            idle.add(row.worker_id)
    return busy, idle


def find_bounds(settings: Settings, admin: KafkaAdmin, engine: sa.Engine) -> Bounds:
    """What is gone as of now, asked of Kafka and PostgreSQL. Raises Unavailable."""
    topic, shares = settings.topic_create, settings.offsets_group is None
    parts = admin.offsets(settings.offsets_group, topic)
    group = None if shares else admin.describe_group(settings.kafka_group, topic)
    return bounds_of(settings, admin, engine, parts, group)


def bounds_of(
    settings: Settings,
    admin: KafkaAdmin,
    engine: sa.Engine,
    parts: Sequence[PartitionOffsets],
    group: GroupDescription | None,
) -> Bounds:
    """The same, of offsets and members that were just asked. In this order: what is committed has its result by now."""
    watermarks = admin.high_watermarks(settings.topic_create)
    topics = admin.identities([settings.topic_create, settings.topic_created])
    if settings.topic_create not in topics:
        raise Unavailable(f"Kafka has no topic {settings.topic_create}: run `filemill topics create`")
    ends = {part.partition: part.end or 0 for part in admin.offsets(None, settings.topic_created)}
    with engine.begin() as connection:
        generations = register(connection, topics)
        read = sa.select(SyncPosition.partition, SyncPosition.next_offset).where(
            SyncPosition.topic == settings.topic_created,
            SyncPosition.generation == generations.get(settings.topic_created, 0),
        )
        positions = {row.partition: row.next_offset for row in connection.execute(read)}
        _, idle = busy_workers(connection)
    members = [] if group is None else [member for member in group.members if member.client_id not in idle]
    owned = {partition for member in members for partition in member.partitions}
    return bounds(
        generations[settings.topic_create],
        [Span(part.partition, part.begin or 0, watermarks.get(part.partition, 0), part.committed) for part in parts],
        owned,
        shares=group is None,
        results_applied=results_applied(ends, positions),
    )


def gone_files(
    connection: sa.Connection, known: Bounds, *, after: int = 0, limit: int = 1000, ids: Sequence[int] | None = None
) -> list[int]:
    """The files beyond the id `after` that are gone, least id first; with `ids`, only of those."""
    return list(connection.execute(_PAGE, {**_parameters(known, ids, after), "limit": limit}).scalars())


def count_gone(connection: sa.Connection, known: Bounds) -> int:
    """How many files are gone. It looks at each unfinished file."""
    return int(connection.execute(_COUNT, _parameters(known, None, 0)).scalar_one())


def resubmit_gone(connection: sa.Connection, known: Bounds, ids: Sequence[int], *, actor: str) -> list[int]:
    """Start a new run of those of the files that are gone; returns which they are. On record."""
    parameters = {**_parameters(known, ids, 0), "traceparent": new_traceparent(), "run_max": RUN_MAX}
    rows = connection.execute(_RESUBMIT, parameters).all()
    if rows:
        record(connection, actor, RESUBMIT, {"files": [[row.id, row.run] for row in rows], "asked": len(ids)})
    return [row.id for row in rows]


def store_loss(connection: sa.Connection, group: str, requests: int) -> None:
    """Keep how many requests are gone, for whoever looks."""
    connection.execute(sa.delete(RequestLoss).where(RequestLoss.group_id == group))
    connection.execute(sa.insert(RequestLoss).values(group_id=group, requests=requests, counted_at=sa.func.now()))


def _parameters(known: Bounds, ids: Sequence[int] | None, after: int) -> dict[str, Any]:
    partitions = sorted(known.removed)
    return {
        "partitions": partitions,
        "removed": [known.removed[partition] for partition in partitions],
        "passed": [known.passed.get(partition, 0) for partition in partitions],
        "ends": [known.ends[partition] for partition in partitions],
        "generation": known.generation,
        "ids": None if ids is None else list(ids),
        "after": after,
        "late": LATE_SECONDS,
        "dead": DEAD_AFTER_SECONDS,
    }
