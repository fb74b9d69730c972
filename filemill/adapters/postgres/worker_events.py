"""Stores worker events, and the state of each worker that follows from them."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from filemill.domain.worker_events import EventKind, WorkerEvent
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
        body = excluded.body,
        vitals = coalesce(excluded.vitals, CASE WHEN excluded.starts > 0 THEN NULL ELSE known.vitals END),
        starts = known.starts + excluded.starts
    WHERE excluded.heard_at >= known.heard_at OR known.heard_at > now()
""")


def store_events(connection: sa.Connection, events: Sequence[ReceivedEvent], generation: int = 1) -> None:
    """Store events in the caller's transaction, and update their workers.

    `generation` is the one of the topic that the events were read from.
    """
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


def _update_worker(connection: sa.Connection, events: list[WorkerEvent]) -> None:
    events.sort(key=lambda event: event.timestamp)
    last = events[-1]
    starts = [event.timestamp for event in events if event.kind is EventKind.STARTED]
    vitals = next((event.vitals for event in reversed(events) if event.vitals is not None), None)
    connection.execute(
        _UPDATE_WORKER,
        {
            "worker": last.worker_id,
            "started_at": starts[-1] if starts else None,
            "heard_at": last.timestamp,
            "kind": last.kind.value,
            "body": msgspec.json.encode(last).decode(),
            "vitals": msgspec.json.encode(vitals).decode() if vitals is not None else None,
            "starts": len(starts),
        },
    )
