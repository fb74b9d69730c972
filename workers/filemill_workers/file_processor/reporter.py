"""Publishes the events of a worker to `worker.events`. An event may be lost; it never delays the worker."""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import psutil
import structlog

from filemill import __version__
from filemill.domain.files import truncate_to_milliseconds
from filemill.domain.handlers import HandlerSpec
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.worker_events import HANDLERS_SECONDS, EventKind, QueueVitals, Vitals, WorkerEvent
from filemill.errors import PermanentError, Unavailable
from filemill.ports import Clock, Publisher

log = structlog.get_logger("processor")

TEXT_MAX_CHARACTERS = 8000
LOG_MAX_CHARACTERS = 64 * 1024


class ConsumerReporter(Protocol):
    """What a consumer reports."""

    def emit_started(self) -> None:
        """It begins."""

    def count_finished(self, records: int) -> None:
        """Records finished."""

    def heartbeat(self, *, in_flight: int, owned: list[int], epoch: int, **vitals: Any) -> None:  # noqa: ANN401
        """It polls; `vitals` are fields of Vitals."""

    def emit(self, kind: EventKind, **fields: Any) -> None:  # noqa: ANN401 - the fields of WorkerEvent
        """Something happened."""


class Reporter:
    """Publishes events of one worker. Any thread."""

    def __init__(
        self,
        publisher: Publisher,
        topic: str,
        worker_id: str,
        protocol: str,
        processing_seconds: float,
        handlers: Sequence[HandlerSpec] = (),
    ) -> None:
        """`handlers`: what the worker announces, at its start and with heartbeats."""
        self._handlers = list(handlers)
        self._announced_at = float("-inf")
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
        self._announce(time.monotonic())

    def _announce(self, now: float) -> None:
        """Publish the handlers, again and again, because a new dashboard has not seen earlier announcements."""
        if self._handlers and now - self._announced_at >= HANDLERS_SECONDS:
            self._announced_at = now
            self.emit(EventKind.HANDLERS, handlers=self._handlers)

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
        self._announce(now)
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


class QueueReporters:
    """Reports of a worker that serves several queues: one start, one end and one heartbeat for all of them."""

    def __init__(self, reporter: Reporter, queues: Sequence[str], clock: Clock = time.monotonic) -> None:
        self._reporter = reporter
        self._queues = list(queues)
        self._clock = clock
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._parts: dict[str, _QueuePart] = {}

    def of(self, queue: str) -> "QueueReporter":
        """The reporter for the consumer of a queue."""
        return QueueReporter(self, self._reporter, queue)

    def start(self, queue: str) -> None:
        """A consumer begins."""
        with self._lock:
            first, self._running = not self._running, self._running | {queue}
        if first:
            self._reporter.emit_started()

    def stop(self, queue: str, fields: dict[str, Any]) -> None:
        """A consumer has ended."""
        with self._lock:
            self._running.discard(queue)
            self._parts.pop(queue, None)
            last = not self._running
        if last:
            self._reporter.emit(EventKind.STOPPED, **fields)

    def heartbeat(self, part: "_QueuePart") -> None:
        """Store a consumer's part; the first one that runs sets the pace of the worker's heartbeats."""
        with self._lock:
            self._parts[part.queue] = part
            parts = [self._parts[queue] for queue in self._queues if queue in self._parts]
        if part is not parts[0]:
            return
        now = self._clock()
        default = self._parts.get(DEFAULT_QUEUE)
        reasons = [one.vitals.get("breaker") for one in parts]
        self._reporter.heartbeat(
            in_flight=sum(one.in_flight for one in parts),
            owned=default.owned if default is not None else [],
            epoch=default.epoch if default is not None else 0,
            oldest_seconds=max(one.vitals.get("oldest_seconds", 0.0) for one in parts),
            # A consumer that does not poll any more has less and less time left.
            headroom_seconds=round(min(one.vitals["headroom_seconds"] - (now - one.at) for one in parts), 1),
            paused=any(one.vitals.get("paused", False) for one in parts),
            retrying=sum(one.vitals.get("retrying", 0) for one in parts),
            quiet=any(one.vitals.get("quiet", False) for one in parts),
            breaker=next((reason for reason in reasons if reason), None),
            oldest_records=[
                msgspec.structs.replace(oldest, queue=one.queue)
                for one in parts
                for oldest in one.vitals.get("oldest_records", [])
            ],
            queues=[
                QueueVitals(
                    queue=one.queue,
                    owned=one.owned,
                    epoch=one.epoch,
                    in_flight=one.in_flight,
                    paused=one.vitals.get("paused", False),
                )
                for one in parts
            ],
        )


class _QueuePart(msgspec.Struct, frozen=True):
    """What the consumer of a queue reported last, and when."""

    queue: str
    at: float
    in_flight: int
    owned: list[int]
    epoch: int
    vitals: dict[str, Any]


class QueueReporter:
    """Reports of the consumer of one queue. (implements ConsumerReporter)."""

    def __init__(self, reporters: QueueReporters, reporter: Reporter, queue: str) -> None:
        self._reporters = reporters
        self._reporter = reporter
        self._queue = queue

    def emit_started(self) -> None:
        """It begins."""
        self._reporters.start(self._queue)

    def count_finished(self, records: int) -> None:
        """Records finished."""
        self._reporter.count_finished(records)

    def heartbeat(self, *, in_flight: int, owned: list[int], epoch: int, **vitals: Any) -> None:  # noqa: ANN401
        """It polls."""
        self._reporters.heartbeat(_QueuePart(self._queue, time.monotonic(), in_flight, owned, epoch, vitals))

    def emit(self, kind: EventKind, **fields: Any) -> None:  # noqa: ANN401 - the fields of WorkerEvent
        """Something happened to this queue's consumer."""
        if kind is EventKind.STOPPED:
            self._reporters.stop(self._queue, fields)
        else:
            self._reporter.emit(kind, queue=self._queue, **fields)
