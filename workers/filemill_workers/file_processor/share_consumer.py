"""File processor, as a member of a share group (KIP-932, experimental).

Reads   `file.create`, one batch at a time; acknowledges each record when its effects are durable.
Writes  the same as `consumer.py`: effects, dead letters and events come from the same executor.
Control `worker.commands`, as `consumer.py`.
Dies    anywhere: the broker delivers the records to other members and counts the deliveries. One delivery before the
        broker's limit the record becomes a dead letter, because the broker drops a record silently at the limit.

The client returns the next batch only when all records of the last one are acknowledged. A slow record therefore delays
this worker, but no other. A batch that takes too long is released: otherwise the locks of its records would expire, or
the worker would be expelled for not polling.
"""

import queue
import threading
import time
from collections.abc import Callable

import msgspec
import structlog

from filemill.domain.records import Record
from filemill.domain.retry import RetryPolicy
from filemill.domain.worker_events import HEARTBEAT_SECONDS, EventKind
from filemill.ports import Clock, ShareSource
from filemill_workers.file_processor.executor import Executor, FinishedRecord
from filemill_workers.file_processor.membership import QUIET, REJOIN_POLICY, run_memberships
from filemill_workers.file_processor.reporter import ConsumerReporter

log = structlog.get_logger("processor")


class ShareOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and intervals of a member of a share group. Times in seconds.

    `drain_seconds`: how long leaving waits for records in progress. `membership_ttl_seconds`: after this time without a
    step the process was paused, and the batch is released. `wait_seconds`: the longest wait for a finished record.
    """

    drain_seconds: float
    membership_ttl_seconds: float = 3.0
    poll_seconds: float = 0.2
    wait_seconds: float = 0.05
    commit_interval_seconds: float = 0.2
    final_commit_seconds: float = 5.0
    rejoin_policy: RetryPolicy = REJOIN_POLICY


class ShareProcessor:
    """Consumes one topic as one member of a share group. All methods but `stop` run on the thread that calls `run`."""

    def __init__(
        self,
        executor: Executor,
        options: ShareOptions,
        *,
        reporter: ConsumerReporter | None = None,
        backpressure_reason: Callable[[], str | None] = lambda: None,
        probe: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
    ) -> None:
        """`backpressure_reason`: why no batch may be read now, QUIET or an unreachable server; None if one may.

        `probe` checks whether the server is reachable again.
        """
        self._executor = executor
        self._options = options
        self._reporter = reporter
        self._backpressure_reason = backpressure_reason
        self._probe = probe
        self._clock = clock
        self._stop = threading.Event()
        self._batch = 0
        self._unfinished: set[tuple[int, int]] = set()
        self._accepted = 0
        self._batch_started_at = self._stepped_at = clock()
        self._committed_at = self._heartbeat_at = float("-inf")

    def stop(self) -> None:
        """Stop after the current step. For any thread."""
        self._stop.set()

    def run(self, join: Callable[[], ShareSource]) -> None:
        """Consume until stopped, then drain, acknowledge and leave. Raises Unavailable if the worker cannot join."""
        if self._reporter is not None:
            self._reporter.emit_started()
        try:
            run_memberships(self._stop, lambda: self._serve(join()), self._options.rejoin_policy)
        finally:
            if self._reporter is not None:
                self._reporter.emit(EventKind.STOPPED, epoch=self._batch)

    def _serve(self, source: ShareSource) -> None:
        """Run one membership until it ends."""
        self._unfinished.clear()
        self._stepped_at = self._clock()
        try:
            while not self._stop.is_set():
                self.step(source)
            self._drain(source)
        finally:
            self._executor.abandon(self._epochs())
            source.close()

    def step(self, source: ShareSource) -> None:
        """Run one cycle of the loop on a member of the group. Raises Unavailable, MemberExpelled."""
        now = self._clock()
        if now - self._stepped_at > self._options.membership_ttl_seconds:
            # The pause may have been longer than the session: other workers may have these records.
            self._release_batch(source, "this process was paused")
        self._stepped_at = now
        self._executor.confirm_membership()
        if self._unfinished:
            self._process_batch(source, now)
        elif (reason := self._backpressure_reason()) is not None:
            # No record is read as a probe, because that would use up one of its deliveries.
            if reason != QUIET:
                self._probe()
            self._stop.wait(self._options.wait_seconds)
        else:
            self._start_batch(source.read(self._options.poll_seconds))
        if now - self._heartbeat_at >= HEARTBEAT_SECONDS:
            self._heartbeat(source, now)

    def _start_batch(self, records: list[Record]) -> None:
        self._batch_started_at = self._stepped_at = self._clock()
        if records:
            self._batch += 1
            self._unfinished = {(record.partition, record.offset) for record in records}
            self._executor.confirm_membership()
            self._executor.start(records, self._epochs())

    def _process_batch(self, source: ShareSource, now: float) -> None:
        self._collect(source, self._options.wait_seconds)
        if now - self._batch_started_at > source.batch_seconds:
            self._release_batch(source, "the batch took too long")
        if self._accepted and now - self._committed_at >= self._options.commit_interval_seconds:
            self._committed_at = now
            self._accepted = 0
            source.commit_async()

    def _collect(self, source: ShareSource, seconds: float) -> None:
        """Process the finished records of the executor; wait up to `seconds` for the first."""
        try:
            self._finish_record(source, self._executor.finished.get(timeout=seconds))
            while True:
                self._finish_record(source, self._executor.finished.get_nowait())
        except queue.Empty:
            return

    def _finish_record(self, source: ShareSource, finished: FinishedRecord) -> None:
        key = finished.partition, finished.offset
        if finished.epoch != self._batch or key not in self._unfinished:
            return
        self._unfinished.discard(key)
        source.accept(*key)
        self._accepted += 1
        if self._reporter is not None:
            self._reporter.count_finished(1)

    def _drain(self, source: ShareSource) -> None:
        """Wait up to `drain_seconds` for records in progress, and release the others."""
        deadline = self._clock() + self._options.drain_seconds
        self._executor.abandon(self._epochs(), idle_longer_than=self._options.drain_seconds)
        while self._executor.in_progress(self._epochs()) and (left := deadline - self._clock()) > 0:
            self._executor.confirm_membership()
            self._collect(source, min(left, self._options.wait_seconds))
        self._release_batch(source, "this worker leaves the group")
        source.commit_sync(self._options.final_commit_seconds)

    def _release_batch(self, source: ShareSource, reason: str) -> None:
        self._executor.abandon(self._epochs())
        self._collect(source, 0.001)
        if self._unfinished:
            log.warning("Released records", count=len(self._unfinished), reason=reason)
        for key in sorted(self._unfinished):
            source.release(*key)
        self._unfinished.clear()
        self._batch += 1  # records of this batch that still finish are ignored

    def _epochs(self) -> dict[int, int]:
        return {partition: self._batch for partition, _ in self._unfinished}

    def _heartbeat(self, source: ShareSource, now: float) -> None:
        self._heartbeat_at = now
        if self._reporter is None:
            return
        status = self._executor.status()
        reason = self._backpressure_reason()
        self._reporter.heartbeat(
            in_flight=len(self._unfinished),
            owned=[],
            epoch=self._batch,
            oldest_seconds=round(status.oldest_seconds, 3),
            headroom_seconds=round(source.batch_seconds - (now - self._batch_started_at if self._unfinished else 0), 1),
            paused=bool(self._unfinished),
            retrying=status.retrying,
            quiet=reason == QUIET,
            breaker=None if reason == QUIET else reason,
        )
