"""File processor.

Reads   `file.create`, as a member of the group `file-service-group`; commits offsets there.
Writes  the files' objects to S3; `file.progress`, `file.created`, `file.create.dlq`, `worker.events`. No database.
Told    by `worker.commands`: to cancel files, to be quiet, to go on.
Dies    before the PUT: nothing happened; another worker does the record.
        between PUT and `file.created`, or between that and the commit: another worker does it once more, with the same
        bytes under the same key, and the first terminal status of the run stands.

This file is the thread that owns the consumer. It polls, hands records to the workshop, collects what is finished,
commits, pauses and resumes, and follows the group's assignments. It waits for nothing but the poll itself, so that the
group never takes it for dead, however long a file takes. Everything about a partition belongs to an epoch (one
assignment of it): what finishes in an epoch that has ended is forgotten, for another worker may be doing it by now.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from filemill.offsets import Commit, PartitionOffsets, decode_metadata
from filemill.ports import Record, RecordSource
from filemill.processing.reporter import Reporter
from filemill.processing.workshop import Finished, Workshop
from filemill.telemetry import HEARTBEAT_SECONDS, Kind

log = structlog.get_logger("processor")

POLL_SECONDS = 0.05
READ_RECORDS = 500
COMMIT_SECONDS = 0.2
FINAL_COMMIT_SECONDS = 5.0
DRAIN_STEP_SECONDS = 0.05
# Paused at the limit, resumed at three quarters of it: a pause drops what the client has prefetched.
RESUME_SHARE = 0.75
QUIET = "quiet"


class FileProcessor:
    """Consumes one topic for one group member. (port: RebalanceListener).

    All methods but `stop` run on the thread that calls `run`.
    """

    def __init__(
        self,
        workshop: Workshop,
        *,
        worker_id: str,
        concurrency: int,
        drain_seconds: float,
        reporter: Reporter | None = None,
        hold: Callable[[], str | None] = lambda: None,
        max_poll_seconds: float = 300.0,
    ) -> None:
        """`hold` gives a reason to take nothing new for now: quiet, or the breaker of a server that is away."""
        self._reporter = reporter
        self._hold = hold
        self._max_poll_seconds = max_poll_seconds
        self._polled_at = self._beat_at = time.monotonic()
        self._workshop = workshop
        self._worker_id = worker_id
        self._concurrency = concurrency
        self._drain_seconds = drain_seconds
        self._source: RecordSource | None = None
        self._stop = threading.Event()
        self._epoch = 0
        self._epochs: dict[int, int] = {}
        self._offsets: dict[int, PartitionOffsets] = {}
        self._in_flight = 0
        self._paused = False
        self._committing = False
        self._committed_at = 0.0

    def stop(self) -> None:
        """Leave after this round; from a signal handler or any thread."""
        self._stop.set()

    def run(self, source: RecordSource) -> None:
        """Consume until stopped, then drain, commit and leave the group. Raises retry.Unavailable on a fatal error."""
        self._source = source
        if self._reporter is not None:
            self._reporter.started()
        try:
            while not self._stop.is_set():
                self._turn(source)
        finally:
            # Leaving revokes what is assigned: that drains and commits.
            source.close()
            self._tell(Kind.STOPPED, owned=[])

    def _turn(self, source: RecordSource) -> None:
        room = self._concurrency - self._in_flight
        records = source.read(min(READ_RECORDS, max(1, room)), POLL_SECONDS)
        self._workshop.polled()
        headroom = self._max_poll_seconds - (time.monotonic() - self._polled_at)
        self._polled_at = time.monotonic()
        self._deliver(records)
        self._collect()
        self._regulate(source)
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS and not self._committing:
            self._commit(source)
        if self._polled_at - self._beat_at >= HEARTBEAT_SECONDS:
            self._beat(headroom)

    def _beat(self, headroom: float) -> None:
        self._beat_at = self._polled_at
        if self._reporter is None:
            return
        oldest, retrying = self._workshop.vitals()
        reason = self._hold()
        self._reporter.heartbeat(
            in_flight=self._in_flight,
            owned=sorted(self._epochs),
            epoch=self._epoch,
            oldest_seconds=round(oldest, 3),
            headroom_seconds=round(headroom, 1),
            paused=self._paused,
            retrying=retrying,
            quiet=reason == QUIET,
            breaker=None if reason == QUIET else reason,
        )

    def _tell(self, kind: Kind, partitions: Sequence[int] = (), owned: list[int] | None = None) -> None:
        if self._reporter is not None:
            self._reporter.emit(
                kind,
                epoch=self._epoch,
                partitions=sorted(partitions),
                owned=sorted(self._epochs) if owned is None else owned,
            )

    # --- assignments, inside `read` and `close`

    def assigned(self, committed: Mapping[int, tuple[int, str]]) -> None:
        """Begin a new epoch for each partition, with what a predecessor had finished beyond its commit."""
        self._epoch += 1
        for partition, (offset, metadata) in committed.items():
            _, finished = decode_metadata(metadata, offset)
            self._epochs[partition] = self._epoch
            self._offsets[partition] = PartitionOffsets(finished)
        if self._paused and self._source is not None:
            # Those that stayed are paused at the client, the new ones are not: one state for all.
            self._source.resume(sorted(self._epochs))
        self._paused = False
        self._tell(Kind.ASSIGNED, list(committed))
        log.info("Partitions assigned", partitions=sorted(committed), epoch=self._epoch, owned=sorted(self._epochs))

    def revoked(self, partitions: Sequence[int]) -> None:
        """Finish what can be finished soon, commit, forget."""
        leaving = {number: self._epochs[number] for number in partitions if number in self._epochs}
        if leaving:
            self._drain(leaving)
            self._commit_now(leaving)
        self._forget(leaving)
        self._tell(Kind.REVOKED, partitions)
        log.info("Partitions revoked", partitions=sorted(partitions), owned=sorted(self._epochs))

    def lost(self, partitions: Sequence[int]) -> None:
        """They are another worker's already: drop the work, commit nothing."""
        self._forget({number: self._epochs[number] for number in partitions if number in self._epochs})
        self._tell(Kind.LOST, partitions)
        log.warning("Partitions lost", partitions=sorted(partitions), owned=sorted(self._epochs))

    def _drain(self, leaving: dict[int, int]) -> None:
        """Wait for what is nearly done, for a bounded time; the rest is another worker's to do again."""
        deadline = time.monotonic() + self._drain_seconds
        self._workshop.abandon(leaving, idle_longer_than=self._drain_seconds)
        while self._workshop.in_progress(leaving) and (left := deadline - time.monotonic()) > 0:
            # In its callback this worker owns the partitions still, though it is not polling.
            self._workshop.polled()
            self._collect(min(left, DRAIN_STEP_SECONDS))
        self._workshop.abandon(leaving)
        self._collect()

    def _forget(self, leaving: dict[int, int]) -> None:
        self._workshop.abandon(leaving)
        for partition in leaving:
            del self._epochs[partition]
            self._in_flight -= self._offsets.pop(partition).unfinished

    # --- records

    def _deliver(self, records: Sequence[Record]) -> None:
        fresh = []
        for record in records:
            offsets = self._offsets.get(record.partition)
            if offsets is None:
                continue  # fetched before a revocation that the same poll reported
            if offsets.deliver(record.offset):
                fresh.append(record)
        if fresh:
            self._in_flight += len(fresh)
            self._workshop.start(fresh, self._epochs)

    def _collect(self, seconds: float = 0) -> None:
        """Take what is finished from the queue; wait `seconds` for the first."""
        try:
            finished = self._workshop.finished.get(timeout=seconds) if seconds else self._workshop.finished.get_nowait()
            while True:
                self._finish(finished)
                finished = self._workshop.finished.get_nowait()
        except queue.Empty:
            return

    def _finish(self, finished: Finished) -> None:
        if self._epochs.get(finished.partition) != finished.epoch:
            return
        self._offsets[finished.partition].finish(finished.offset)
        self._in_flight -= 1
        if self._reporter is not None:
            self._reporter.finished(1)

    def _regulate(self, source: RecordSource) -> None:
        reason = self._hold()
        # Only what is in progress finds out that a server is back: with nothing in progress, some is taken in to try.
        held = reason is not None and (reason == QUIET or self._in_flight > 0)
        if not self._paused and (held or self._in_flight >= self._concurrency):
            source.pause(sorted(self._epochs))
            self._paused = True
        elif self._paused and not held and self._in_flight <= self._concurrency * RESUME_SHARE:
            source.resume(sorted(self._epochs))
            self._paused = False

    # --- commits

    def _commit(self, source: RecordSource) -> None:
        self._committed_at = time.monotonic()
        commits = self._due(self._epochs)
        if commits:
            self._committing = True
            epochs = {partition: self._epochs[partition] for partition in commits}
            source.commit(commits, lambda taken: self._acknowledged(taken, epochs))

    def _commit_now(self, leaving: dict[int, int]) -> None:
        commits = self._due(leaving)
        if commits and self._source is not None:
            self._acknowledged(self._source.commit_now(commits, FINAL_COMMIT_SECONDS), leaving, final=True)

    def _due(self, epochs: Mapping[int, int]) -> dict[int, Commit]:
        due = {
            partition: self._offsets[partition].commit(self._worker_id, epoch) for partition, epoch in epochs.items()
        }
        return {partition: commit for partition, commit in due.items() if commit is not None}

    def _acknowledged(self, taken: Mapping[int, Commit], epochs: Mapping[int, int], *, final: bool = False) -> None:
        if not final:
            self._committing = False
        for partition, commit in taken.items():
            if self._epochs.get(partition) == epochs[partition]:
                self._offsets[partition].acknowledged(commit)
                log.debug("Committed offset", partition=partition, offset=commit.offset)
