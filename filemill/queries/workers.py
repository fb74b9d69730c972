"""The file processors, according to their own events.

A worker is dead if its last event is too old by the database's clock.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.domain.worker_events import (
    DEAD_AFTER_SECONDS,
    STUCK_MARGIN_SECONDS,
    Vitals,
    WorkerCondition,
    WorkerEvent,
    worker_condition,
)

# A dead or stopped worker is listed for this long.
GONE_LISTED = timedelta(hours=24)
# The longest list: each worker costs time, and anyone who can write to Kafka can invent any number of them.
WORKERS_MAX = 500


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """A worker. `version`, `pid` and `host` are of its last start; `epoch` and `owned` of its last event.

    All times are the database's. `skew_seconds`: how far the worker's clock is ahead of it (negative: behind).
    """

    id: str
    condition: WorkerCondition
    heard_seconds_ago: float
    last_word: str
    started_at: datetime | None
    starts: int
    owned: list[int]
    epoch: int | None
    protocol: str | None
    processing_seconds: float | None
    version: str | None
    pid: int | None
    host: str | None
    vitals: Vitals | None
    cpu_share: float | None
    skew_seconds: float | None = None


class WorkerQuery(msgspec.Struct, frozen=True):
    """A page of workers: `limit` after the first `offset`; dead and stopped workers come last, then by id.

    `state` is a Condition, or "" for any. `search` is part of an id. `ids` limits the workers; empty: all.
    """

    state: str = ""
    search: str = ""
    ids: tuple[str, ...] = ()
    offset: int = 0
    limit: int = WORKERS_MAX


ALL_WORKERS = WorkerQuery()
# The rule of filemill.domain.worker_events.condition in SQL, for filters and counts.
_LISTED = """
    WITH listed AS (
        SELECT *, CASE
            WHEN kind = 'stopped' THEN 'stopped'
            WHEN clock_timestamp() - heard_at > make_interval(secs => :dead) THEN 'dead'
            WHEN coalesce(CAST(vitals ->> 'inFlight' AS numeric), 0) = 0 THEN 'idle'
            WHEN coalesce(CAST(vitals ->> 'busySeconds' AS numeric), 0)
                 > coalesce(CAST(body ->> 'processingSeconds' AS numeric), 0) + :margin THEN 'stuck'
            ELSE 'busy' END AS condition
        FROM workers
        WHERE heard_at > now() - CAST(:listed AS interval)
            AND (:search = '' OR position(lower(:search) IN lower(worker_id)) > 0)
            AND (cardinality(CAST(:ids AS text[])) = 0 OR worker_id = ANY(CAST(:ids AS text[])))
    )
"""
_COUNTS = sa.text(f"{_LISTED} SELECT condition, count(*) AS workers FROM listed GROUP BY condition")  # noqa: S608 - ours
# CPU between the last two heartbeats: a worker reports seconds since its start.
_WORKERS = sa.text(f"""
    {_LISTED}, workers AS (
        SELECT * FROM listed WHERE :state = '' OR condition = :state
        ORDER BY condition IN ('dead', 'stopped'), worker_id OFFSET :offset LIMIT :limit
    )
    SELECT workers.worker_id, workers.heard_at, workers.started_at, workers.starts, workers.body, workers.vitals,
           started.body, beats.bodies, clock_timestamp() AS now
    FROM workers
    LEFT JOIN LATERAL (
        SELECT body FROM worker_events
        WHERE worker_id = workers.worker_id AND at = workers.started_at AND kind = 'started' LIMIT 1
    ) AS started ON true
    LEFT JOIN LATERAL (
        SELECT array_agg(body) AS bodies FROM (
            SELECT body FROM worker_events
            WHERE worker_id = workers.worker_id AND kind = 'heartbeat' AND at > workers.heard_at - interval '15 s'
            ORDER BY at DESC LIMIT 4
        ) AS latest
    ) AS beats ON true
    ORDER BY workers.condition IN ('dead', 'stopped'), workers.worker_id
""")  # noqa: S608 - ours


def list_workers(connection: sa.Connection, query: WorkerQuery = ALL_WORKERS) -> list[WorkerView]:
    """Workers with an event of the last 24 hours; at most `WORKERS_MAX`."""
    wanted = {"state": query.state, "offset": query.offset, "limit": min(query.limit, WORKERS_MAX)}
    return [_view(row) for row in connection.execute(_WORKERS, {**_parameters(query), **wanted})]


def count_workers(connection: sa.Connection, query: WorkerQuery = ALL_WORKERS) -> dict[WorkerCondition, int]:
    """How many workers match `search` and `ids`, by condition; with an event of the last 24 hours."""
    found = {WorkerCondition(row.condition): row.workers for row in connection.execute(_COUNTS, _parameters(query))}
    return {condition: found.get(condition, 0) for condition in WorkerCondition}


# Whether the silence of a worker means that it sends nothing. If no worker was heard and the group monitor did not
# reach Kafka ten seconds ago either, the events did not arrive.
_SILENCE_KNOWN = sa.text("""
    SELECT EXISTS (SELECT FROM workers WHERE heard_at > clock_timestamp() - make_interval(secs => :dead))
        OR NOT EXISTS (SELECT FROM group_samples)
        OR EXISTS (
            SELECT FROM group_samples WHERE sampled_at BETWEEN now() - make_interval(secs => :dead + 5)
                AND now() - make_interval(secs => :dead)
        )
""")


def silence_known(connection: sa.Connection) -> bool:
    """Whether a worker that was not heard of is dead. If not, Kafka was unreachable: what was known last may hold."""
    return bool(connection.execute(_SILENCE_KNOWN, {"dead": DEAD_AFTER_SECONDS}).scalar_one())


def _parameters(query: WorkerQuery) -> dict[str, object]:
    return {
        "listed": GONE_LISTED,
        "search": query.search,
        "ids": list(query.ids),
        "dead": DEAD_AFTER_SECONDS,
        "margin": STUCK_MARGIN_SECONDS,
    }


def knows_worker(connection: sa.Connection, worker_id: str) -> bool:
    """Whether a worker of this name has ever sent an event."""
    known = sa.text("SELECT EXISTS (SELECT FROM workers WHERE worker_id = :worker)")
    return bool(connection.execute(known, {"worker": worker_id}).scalar_one())


def owned_partitions(connection: sa.Connection) -> set[int]:
    """The partitions that running workers reported as theirs in their latest events."""
    owned = sa.text("SELECT body -> 'owned' FROM workers WHERE kind <> 'stopped'")
    reported = connection.execute(owned).scalars()
    return {partition for partitions in reported for partition in partitions or ()}


class FileInProgress(msgspec.Struct, frozen=True):
    """A file that a worker is processing, for `seconds`."""

    id: int
    title: str
    partition: int | None
    step: int | None
    steps: int | None
    attempt: int | None
    seconds: float | None
    owner: str | None = None


_IN_PROGRESS = sa.text("""
    SELECT id, title, kafka_partition, step, steps, attempt,
           CAST(extract(epoch FROM clock_timestamp() - started_at) AS float8), owner
    FROM files WHERE status = 'processing' AND worker_id = :worker ORDER BY id LIMIT 50
""")
_EVENTS = sa.text("""
    SELECT body FROM worker_events
    WHERE worker_id = :worker AND kind <> 'heartbeat' AND at > now() - interval '24 hours' ORDER BY at DESC LIMIT 50
""")


def worker_files(connection: sa.Connection, worker_id: str) -> list[FileInProgress]:
    """The files that a worker is processing, oldest first; at most 50. Files without a progress event are missing."""
    return [FileInProgress(*row) for row in connection.execute(_IN_PROGRESS, {"worker": worker_id})]


def worker_events(connection: sa.Connection, worker_id: str) -> list[WorkerEvent]:
    """A worker's events of the last 24 hours without heartbeats, newest first; at most 50."""
    rows = connection.execute(_EVENTS, {"worker": worker_id}).scalars()
    return [msgspec.convert(body, WorkerEvent) for body in rows]


def _view(row: Sequence[Any]) -> WorkerView:
    worker_id, heard_at, started_at, starts, body, vitals_body, started_body, beats, now = row
    last = msgspec.convert(body, WorkerEvent)
    silent = max(0.0, (now - heard_at).total_seconds())
    started = msgspec.convert(started_body, WorkerEvent) if started_body else None
    vitals = msgspec.convert(vitals_body, Vitals) if vitals_body else None
    return WorkerView(
        id=worker_id,
        condition=worker_condition(last, vitals, last.processing_seconds or 0.0, silent),
        heard_seconds_ago=silent,
        skew_seconds=last.skew_seconds,
        last_word=last.kind.value,
        started_at=started_at,
        starts=starts,
        owned=last.owned,
        epoch=last.epoch,
        protocol=last.protocol,
        processing_seconds=last.processing_seconds,
        version=started.version if started else None,
        pid=started.pid if started else None,
        host=started.host if started else None,
        vitals=vitals,
        cpu_share=_cpu_share([msgspec.convert(beat, WorkerEvent) for beat in beats or []]),
    )


def _cpu_share(beats: list[WorkerEvent]) -> float | None:
    """CPU seconds per second over the latest heartbeats; None: there are not two of the same process."""
    if len(beats) < 2:
        return None
    last, first = beats[0], beats[-1]
    if last.vitals is None or first.vitals is None:
        return None
    seconds = (last.timestamp - first.timestamp).total_seconds()
    used = last.vitals.cpu_seconds - first.vitals.cpu_seconds
    return used / seconds if seconds > 0 and used >= 0 else None
