"""Announces handlers as the status sync does, without a worker."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from filemill.adapters.postgres.worker_events import store_events
from filemill.config.settings import Settings
from filemill.domain.handlers import HandlerSpec
from filemill.domain.worker_events import EventKind, WorkerEvent
from filemill.entrypoints import bootstrap
from filemill.ports import ReceivedEvent

ANNOUNCE_SECONDS = 2.0

INVOICE = HandlerSpec(
    name="invoice",
    version="2",
    content_type="application/pdf",
    extension="pdf",
    max_concurrency=2,
    timeout=120,
    schema={
        "type": "object",
        "required": ["number", "lines"],
        "additionalProperties": False,
        "properties": {
            "number": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
            "due": {"type": "string", "format": "date"},
            "paid": {"type": "boolean"},
            "currency": {"enum": ["EUR", "USD"]},
            "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Line"}},
        },
        "$defs": {
            "Line": {
                "type": "object",
                "required": ["text", "price"],
                "properties": {"text": {"type": "string"}, "price": {"type": "number", "minimum": 0}},
            }
        },
    },
)


def announce(engine: sa.Engine, *specs: HandlerSpec, worker: str = "worker-1", seconds_ago: float = 0) -> None:
    """Store the events of a worker that starts and announces these handlers."""
    at = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    events = [
        WorkerEvent(kind=EventKind.STARTED, worker_id=worker, timestamp=at),
        WorkerEvent(kind=EventKind.HANDLERS, worker_id=worker, timestamp=at, handlers=list(specs)),
    ]
    with engine.begin() as connection:
        offset = connection.execute(sa.text("SELECT count(*) FROM worker_events")).scalar_one()
        received = [ReceivedEvent(0, offset + number, event) for number, event in enumerate(events)]
        store_events(connection, received)


def stop(engine: sa.Engine, worker: str = "worker-1") -> None:
    """Store the event of a worker that has stopped."""
    event = WorkerEvent(kind=EventKind.STOPPED, worker_id=worker, timestamp=datetime.now(UTC))
    with engine.begin() as connection:
        store_events(connection, [ReceivedEvent(1, 10_000, event)])


@contextlib.contextmanager
def announced(settings: Settings, handlers: Mapping[str, HandlerSpec]) -> Iterator[None]:
    """Have a worker with each of these handlers, by its id, which sends events until the block ends."""
    engine, ended = bootstrap.create_engine(settings, "test"), threading.Event()

    def run() -> None:
        while True:
            for worker, spec in handlers.items():
                announce(engine, spec, worker=worker)
            if ended.wait(ANNOUNCE_SECONDS):
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        engine.dispose()
