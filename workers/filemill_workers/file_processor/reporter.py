"""Publishes the events of a worker to `worker.events`. An event may be lost; it never delays the worker."""

import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import psutil
import structlog

from filemill import __version__
from filemill.domain.files import truncate_to_milliseconds
from filemill.domain.worker_events import EventKind, Vitals, WorkerEvent
from filemill.errors import PermanentError, Unavailable
from filemill.ports import Publisher

log = structlog.get_logger("processor")

TEXT_MAX_CHARACTERS = 8000
LOG_MAX_CHARACTERS = 64 * 1024


class Reporter:
    """Publishes events of one worker. Any thread."""

    def __init__(
        self, publisher: Publisher, topic: str, worker_id: str, protocol: str, processing_seconds: float
    ) -> None:
        self._publisher = publisher
        self._topic = topic
        self._worker_id = worker_id
        self._protocol = protocol
        self._processing_seconds = processing_seconds
        # The longest deadline of the handlers in progress: a worker is not stuck while one may still end.
        self.longest_timeout: Callable[[], float] = lambda: 0.0
        self._process = psutil.Process()
        self._lock = threading.Lock()
        self._finished = self._failed = 0
        self._last_count = 0
        self._last_at = self._progress_at = time.monotonic()

    def emit_started(self) -> None:
        """Publish the first event of a worker."""
        self.emit(EventKind.STARTED, version=__version__, pid=os.getpid(), host=socket.gethostname())

    def count_finished(self, records: int) -> None:
        """Count records that finished."""
        with self._lock:
            self._finished += records
            self._progress_at = time.monotonic()

    def count_failed(self) -> None:
        """Count a dead letter."""
        with self._lock:
            self._failed += 1

    def heartbeat(self, *, in_flight: int, owned: list[int], epoch: int, **vitals: Any) -> None:  # noqa: ANN401
        """Publish a heartbeat. `vitals`: the fields of Vitals that the caller provides."""
        now = time.monotonic()
        with self._lock:
            if not in_flight:
                self._progress_at = now
            rate = (self._finished - self._last_count) / max(now - self._last_at, 1e-3)
            self._last_count, self._last_at = self._finished, now
            busy = now - self._progress_at
            finished, failed = self._finished, self._failed
        cpu = self._process.cpu_times()
        self.emit(
            EventKind.HEARTBEAT,
            owned=owned,
            epoch=epoch,
            vitals=Vitals(
                in_flight=in_flight,
                busy_seconds=round(busy, 3),
                finished=finished,
                failed=failed,
                finished_per_second=round(rate, 2),
                cpu_seconds=round(cpu.user + cpu.system, 3),
                rss_bytes=self._process.memory_info().rss,
                **vitals,
            ),
        )

    def emit(self, kind: EventKind, **fields: Any) -> None:  # noqa: ANN401 - the fields of WorkerEvent
        """Publish an event without waiting for it."""
        try:
            self._publisher.publish(self._topic, self._encode(kind, fields), key=self._worker_id)
        except (Unavailable, PermanentError) as error:
            log.debug("An event was lost", kind=kind.value, error=str(error))

    def encode(self, kind: EventKind, **fields: Any) -> bytes:  # noqa: ANN401 - the fields of WorkerEvent
        """The value of an event, for a caller that waits for its acknowledgement."""
        return self._encode(kind, fields)

    def _encode(self, kind: EventKind, fields: dict[str, Any]) -> bytes:
        for name in ("error", "trace", "cause"):
            if fields.get(name):
                fields[name] = _printable(fields[name], TEXT_MAX_CHARACTERS)
        if fields.get("log"):
            fields["log"] = _printable(fields["log"], LOG_MAX_CHARACTERS)
        event = WorkerEvent(
            kind=kind,
            worker_id=self._worker_id,
            timestamp=truncate_to_milliseconds(datetime.now(UTC)),
            protocol=self._protocol,
            processing_seconds=max(self._processing_seconds, self.longest_timeout()),
            **fields,
        )
        return msgspec.json.encode(event)


def _printable(text: str, limit: int) -> str:
    """The text in a form that Postgres and JSON accept: no NUL, no lone surrogate, limited length."""
    return text[-limit:].replace("\0", "\\0").encode(errors="backslashreplace").decode()[-limit:]
