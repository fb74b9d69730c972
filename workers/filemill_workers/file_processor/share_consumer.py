"""File processor, as a member of a share group (KIP-932, experimental).

Reads   `file.create`, a batch at a time; acknowledges each record when its effects are durable.
Writes  what `consumer.py` writes; effects, dead letters and commands come from the same executor.
Dies    anywhere: the broker hands its records to others, and counts. A record that was handed out nearly as often as
        the broker allows goes to the dead letters instead: what the broker gives up by itself is in no row.

The client gives the next batch only when all of the last one is acknowledged, so a slow record holds up this worker,
and no other. A batch that is not done when its time is over is released: the lock of its records would run out, or the
worker would be put out of its group for not polling.
"""

import queue
import threading
import time
from collections.abc import Callable

import structlog

from filemill.domain.records import Record
from filemill.domain.worker_events import HEARTBEAT_SECONDS, EventKind
from filemill.ports import ShareSource
from filemill_workers.file_processor.executor import Executor, FinishedRecord
from filemill_workers.file_processor.membership import QUIET, run_memberships
from filemill_workers.file_processor.reporter import Reporter

log = structlog.get_logger("processor")

POLL_SECONDS = 0.2
WAIT_SECONDS = 0.05
COMMIT_SECONDS = 0.2
FINAL_COMMIT_SECONDS = 5.0


class ShareProcessor:
    """Consumes one topic for one member of a share group. All methods but `stop` run on the thread that calls `run`."""

    def __init__(
        self,
        executor: Executor,
        *,
        drain_seconds: float,
        reporter: Reporter | None = None,
        backpressure_reason: Callable[[], str | None] = lambda: None,
        probe: Callable[[], None] = lambda: None,
        membership_ttl_seconds: float = 3.0,
    ) -> None:
        """`hold` gives a reason to take nothing new for now; `probe` finds out whether a server is back.

        `trusted_seconds`: a worker that made no turn for so long was asleep, and gives back what it holds.
        """
        self._executor = executor
        self._drain_seconds = drain_seconds
        self._reporter = reporter
        self._backpressure_reason = backpressure_reason
        self._probe = probe
        self._membership_ttl_seconds = membership_ttl_seconds
        self._stop = threading.Event()
        self._batch = 0
        self._unfinished: set[tuple[int, int]] = set()
        self._accepted = 0
        self._batch_started_at = self._stepped_at = time.monotonic()
        self._committed_at = self._heartbeat_at = 0.0

    def stop(self) -> None:
        """Leave after this round; from any thread."""
        self._stop.set()

    def run(self, join: Callable[[], ShareSource]) -> None:
        """Consume until stopped, then drain, acknowledge and leave. Raises Unavailable where nobody may join."""
        if self._reporter is not None:
            self._reporter.emit_started()
        try:
            run_memberships(self._stop, lambda: self._serve(join()))
        finally:
            if self._reporter is not None:
                self._reporter.emit(EventKind.STOPPED, epoch=self._batch)

    def _serve(self, source: ShareSource) -> None:
        self._unfinished.clear()
        self._stepped_at = time.monotonic()
        try:
            while not self._stop.is_set():
                self.step(source)
            self._drain(source)
        finally:
            self._executor.abandon(self._epochs())
            source.close()

    def step(self, source: ShareSource) -> None:
        now = time.monotonic()
        if now - self._stepped_at > self._membership_ttl_seconds:
            # Stopped for longer than its session, maybe: others have these records by now.
            self._release_batch(source, "this worker was asleep")
        self._stepped_at = now
        self._executor.confirm_membership()
        if self._unfinished:
            self._process_batch(source, now)
        elif (reason := self._backpressure_reason()) is not None:
            # Nothing is taken in to try: being handed out once more would cost a record one of its deliveries.
            if reason != QUIET:
                self._probe()
            self._stop.wait(WAIT_SECONDS)
        else:
            self._start_batch(source.read(POLL_SECONDS))
        if now - self._heartbeat_at >= HEARTBEAT_SECONDS:
            self._heartbeat(source, now)

    def _start_batch(self, records: list[Record]) -> None:
        self._batch_started_at = self._stepped_at = time.monotonic()
        if records:
            self._batch += 1
            self._unfinished = {(record.partition, record.offset) for record in records}
            self._executor.confirm_membership()
            self._executor.start(records, self._epochs())

    def _process_batch(self, source: ShareSource, now: float) -> None:
        self._collect(source, WAIT_SECONDS)
        if now - self._batch_started_at > source.batch_seconds:
            self._release_batch(source, "the time of its batch is over")
        if self._accepted and now - self._committed_at >= COMMIT_SECONDS:
            self._committed_at = now
            self._accepted = 0
            source.commit_async()

    def _collect(self, source: ShareSource, seconds: float) -> None:
        """Take what is finished from the queue; wait `seconds` for the first."""
        try:
            self._finish_record(source, self._executor.finished.get(timeout=seconds))
            while True:
                self._finish_record(source, self._executor.finished.get_nowait())
        except queue.Empty:
            return

    def _finish_record(self, source: ShareSource, finished: FinishedRecord) -> None:
        place = finished.partition, finished.offset
        if finished.epoch != self._batch or place not in self._unfinished:
            return
        self._unfinished.discard(place)
        source.accept(*place)
        self._accepted += 1
        if self._reporter is not None:
            self._reporter.count_finished(1)

    def _drain(self, source: ShareSource) -> None:
        """Wait for what is nearly done, for a bounded time; give the rest back."""
        deadline = time.monotonic() + self._drain_seconds
        self._executor.abandon(self._epochs(), idle_longer_than=self._drain_seconds)
        while self._executor.in_progress(self._epochs()) and (left := deadline - time.monotonic()) > 0:
            self._executor.confirm_membership()
            self._collect(source, min(left, WAIT_SECONDS))
        self._release_batch(source, "this worker leaves")
        source.commit_sync(FINAL_COMMIT_SECONDS)

    def _release_batch(self, source: ShareSource, reason: str) -> None:
        self._executor.abandon(self._epochs())
        self._collect(source, 0.001)
        if self._unfinished:
            log.warning("Released records", count=len(self._unfinished), reason=reason)
        for place in sorted(self._unfinished):
            source.release(*place)
        self._unfinished.clear()
        self._batch += 1  # what still finishes is nobody's

    def _epochs(self) -> dict[int, int]:
        return {partition: self._batch for partition, _ in self._unfinished}

    def _heartbeat(self, source: ShareSource, now: float) -> None:
        self._heartbeat_at = now
        if self._reporter is None:
            return
        oldest, retrying = self._executor.vitals()
        reason = self._backpressure_reason()
        self._reporter.heartbeat(
            in_flight=len(self._unfinished),
            owned=[],
            epoch=self._batch,
            oldest_seconds=round(oldest, 3),
            headroom_seconds=round(source.batch_seconds - (now - self._batch_started_at if self._unfinished else 0), 1),
            paused=bool(self._unfinished),
            retrying=retrying,
            quiet=reason == QUIET,
            breaker=None if reason == QUIET else reason,
        )
