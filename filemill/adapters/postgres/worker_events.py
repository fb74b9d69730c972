"""Stores worker events, and the state of each worker that follows from them."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.worker_events import OWNERSHIP_KINDS, EventKind, WorkerEvent
from filemill.ports import ReceivedEvent

_STORE = sa.text("""
    INSERT INTO worker_events (partition, "offset", worker_id, kind, at, file_id, body, generation)
    SELECT *, :generation FROM unnest(
        CAST(:partitions AS int[]), CAST(:offsets AS bigint[]), CAST(:workers AS text[]), CAST(:kinds AS text[]),
        CAST(:moments AS timestamptz[]), CAST(:files AS bigint[]), CAST(:bodies AS jsonb[])
    ) ON CONFLICT DO NOTHING
""")
# Partitions have no common order: an event that is older than its worker's row changes nothing. A row from the future
# was dated by another clock, or this clock was set back: any event replaces it.
_UPDATE_WORKER = sa.text("""
    INSERT INTO workers AS known (worker_id, started_at, heard_at, kind, body, vitals, starts)
    VALUES (:worker, :started_at, :heard_at, :kind, CAST(:body AS jsonb), CAST(:vitals AS jsonb), :starts)
    ON CONFLICT (worker_id) DO UPDATE SET
        started_at = coalesce(excluded.started_at, known.started_at),
        heard_at = excluded.heard_at,
        kind = excluded.kind,
        body = CASE
            WHEN NOT :of_worker THEN known.body
            WHEN :of_partitions THEN excluded.body
            ELSE excluded.body || jsonb_strip_nulls(
                jsonb_build_object('owned', known.body -> 'owned', 'epoch', known.body -> 'epoch'))
        END,
        vitals = coalesce(excluded.vitals, CASE WHEN excluded.starts > 0 THEN NULL ELSE known.vitals END),
        starts = known.starts + excluded.starts
    WHERE excluded.heard_at >= known.heard_at OR known.heard_at > now()
""")

_FORGET = sa.text("""
    DELETE FROM workers
    WHERE (CAST(:ids AS text[]) IS NULL OR worker_id = ANY(CAST(:ids AS text[])))
        AND (kind = 'stopped' OR clock_timestamp() - heard_at > make_interval(secs => :silent))
    RETURNING worker_id
""")
_FORGET_ALL_HANDLERS = sa.text("DELETE FROM worker_handlers WHERE worker_id = ANY(CAST(:ids AS text[]))")
_FORGET_HANDLERS = sa.text("""
    DELETE FROM worker_handlers
    WHERE worker_id = :worker AND announced_at <= :at AND name <> ALL(CAST(:names AS text[]))
""")
_STORE_HANDLERS = sa.text("""
    INSERT INTO worker_handlers AS known (worker_id, name, version, spec, announced_at)
    SELECT :worker, name, version, spec, :at
    FROM unnest(CAST(:names AS text[]), CAST(:versions AS text[]), CAST(:specs AS jsonb[]))
         AS announced (name, version, spec)
    ON CONFLICT (name, worker_id) DO UPDATE
        SET version = excluded.version, spec = excluded.spec, announced_at = excluded.announced_at
        WHERE known.announced_at <= excluded.announced_at
""")


def store_events(connection: sa.Connection, events: Sequence[ReceivedEvent], generation: int = 1) -> None:
    """Store events in the caller's transaction, and update their workers.

    `generation` is the one of the topic that the events were read from.
    """
    announcements = [received.event for received in events if received.event.kind is EventKind.HANDLERS]
    if announcements:
        _store_handlers(connection, announcements)
        events = [received for received in events if received.event.kind is not EventKind.HANDLERS]
    if not events:
        return
    bodies = [msgspec.json.encode(received.event).decode() for received in events]
    columns: dict[str, object] = {
        "generation": generation,
        "partitions": [received.partition for received in events],
        "offsets": [received.offset for received in events],
        "workers": [received.event.worker_id for received in events],
        "kinds": [received.event.kind.value for received in events],
        "moments": [received.event.timestamp for received in events],
        "files": [received.event.file_id for received in events],
        "bodies": bodies,
    }
    connection.execute(_STORE, columns)
    # All transactions use the same order, so that two cannot deadlock.
    for worker_id in sorted({received.event.worker_id for received in events}):
        _update_worker(connection, [received.event for received in events if received.event.worker_id == worker_id])


def forget_workers(connection: sa.Connection, ids: Sequence[str] | None, silent_seconds: float) -> list[str]:
    """Delete workers that reported their stop, or were silent for so long; returns their ids, sorted.

    None: all such workers. Their events stay. A worker that sends an event is listed again.
    """
    given = None if ids is None else list(ids)
    forgotten = sorted(connection.execute(_FORGET, {"ids": given, "silent": silent_seconds}).scalars())
    connection.execute(_FORGET_ALL_HANDLERS, {"ids": forgotten})
    return forgotten


def _store_handlers(connection: sa.Connection, announcements: Sequence[WorkerEvent]) -> None:
    """Replace what each worker announced. Announcements are repeated, so they are not part of the worker's history."""
    latest = {event.worker_id: event for event in sorted(announcements, key=lambda event: event.timestamp)}
    for worker_id, event in sorted(latest.items()):
        specs = {spec.name: spec for spec in event.handlers}
        parameters = {
            "worker": worker_id,
            "names": list(specs),
            "versions": [spec.version for spec in specs.values()],
            "specs": [msgspec.json.encode(spec).decode() for spec in specs.values()],
            "at": event.timestamp,
        }
        connection.execute(_FORGET_HANDLERS, parameters)
        connection.execute(_STORE_HANDLERS, parameters)


def _update_worker(connection: sa.Connection, events: list[WorkerEvent]) -> None:
    events.sort(key=lambda event: event.timestamp)
    last = events[-1]
    # `owned` and `epoch` of the worker's row are those of the queue `default`; a heartbeat has those of all queues.
    of_worker = [event for event in events if event.queue == DEFAULT_QUEUE]
    # Other kinds of events do not say which partitions the worker owns.
    of_partitions = [event for event in of_worker if event.kind in OWNERSHIP_KINDS]
    body = (of_worker or [last])[-1]
    if of_partitions:
        body = msgspec.structs.replace(body, owned=of_partitions[-1].owned, epoch=of_partitions[-1].epoch)
    starts = [event.timestamp for event in events if event.kind is EventKind.STARTED]
    vitals = next((event.vitals for event in reversed(events) if event.vitals is not None), None)
    connection.execute(
        _UPDATE_WORKER,
        {
            "worker": last.worker_id,
            "started_at": starts[-1] if starts else None,
            "heard_at": last.timestamp,
            "kind": last.kind.value,
            "body": msgspec.json.encode(body).decode(),
            "of_worker": bool(of_worker),
            "of_partitions": bool(of_partitions),
            "vitals": msgspec.json.encode(vitals).decode() if vitals is not None else None,
            "starts": len(starts),
        },
    )
