"""Storing what workers say."""

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
# Partitions share no order: an event that is older than what is known of its worker changes nothing. What is known from
# the future was dated by another clock, or this one was set back: it does not count.
_HEARD = sa.text("""
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
    """Store events in the caller's transaction, and what they make of their workers.

    `generation`: of the topic that they were read from.
    """
    if not events:
        return
    bodies = [msgspec.json.encode(heard.event).decode() for heard in events]
    columns: dict[str, object] = {
        "generation": generation,
        "partitions": [heard.partition for heard in events],
        "offsets": [heard.offset for heard in events],
        "workers": [heard.event.worker_id for heard in events],
        "kinds": [heard.event.kind.value for heard in events],
        "moments": [heard.event.timestamp for heard in events],
        "files": [heard.event.file_id for heard in events],
        "bodies": bodies,
    }
    connection.execute(_STORE, columns)
    # In one order for all transactions, so that two cannot wait for each other.
    for worker_id in sorted({heard.event.worker_id for heard in events}):
        _hear(connection, [heard.event for heard in events if heard.event.worker_id == worker_id])


def _hear(connection: sa.Connection, events: list[WorkerEvent]) -> None:
    events.sort(key=lambda event: event.timestamp)
    last = events[-1]
    starts = [event.timestamp for event in events if event.kind is EventKind.STARTED]
    vitals = next((event.vitals for event in reversed(events) if event.vitals is not None), None)
    connection.execute(
        _HEARD,
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
