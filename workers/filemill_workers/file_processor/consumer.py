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

from filemill.domain.offsets import Commit, OffsetTracker, decode_metadata
from filemill.domain.records import Record
from filemill.domain.worker_events import HEARTBEAT_SECONDS, EventKind
from filemill.errors import MemberExpelled
from filemill.ports import RebalanceListener, RecordSource
from filemill_workers.file_processor.dispatcher import Dispatcher, PartitionUsage
from filemill_workers.file_processor.executor import Executor, FinishedRecord
from filemill_workers.file_processor.membership import QUIET, run_memberships
from filemill_workers.file_processor.oldest_records import OldestRecordTracker
from filemill_workers.file_processor.reporter import Reporter

log = structlog.get_logger("processor")

POLL_SECONDS = 0.05
# Where one record is finished, others are soon: a turn for each would cost more than the records.
BATCHING_SECONDS = 0.002
# With so many in progress nobody waits for the next turn, and fewer turns leave more of Python to the workshop.
BUSY_RECORDS = 100
BATCHING_SECONDS_BUSY = 0.01
READ_RECORDS = 500
COMMIT_SECONDS = 0.2
FINAL_COMMIT_SECONDS = 5.0
DRAIN_STEP_SECONDS = 0.05

Join = Callable[[RebalanceListener], RecordSource]


class FileProcessor:
    """Consumes one topic for one group member. (port: RebalanceListener).

    All methods but `stop` run on the thread that calls `run`.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        worker_id: str,
        concurrency: int,
        drain_seconds: float,
        partition_concurrency: int | None = None,
        reporter: Reporter | None = None,
        backpressure_reason: Callable[[], str | None] = lambda: None,
        max_poll_seconds: float = 300.0,
        membership_ttl_seconds: float = 3.0,
    ) -> None:
        """`hold` gives a reason to take nothing new for now: quiet, or the breaker of a server that is away.

        `trusted_seconds`: after so long without a poll the assignment is not believed until the broker has spoken.
        """
        self._reporter = reporter
        self._backpressure_reason = backpressure_reason
        self._max_poll_seconds = max_poll_seconds
        self._polled_at = self._heartbeat_at = time.monotonic()
        self._membership_ttl_seconds = membership_ttl_seconds
        self._membership_confirmed_at = time.monotonic()
        self._membership_uncertain = False
        self._executor = executor
        self._worker_id = worker_id
        self._dispatcher = Dispatcher(concurrency, partition_concurrency or concurrency)
        self._drain_seconds = drain_seconds
        self._source: RecordSource | None = None
        self._stop = threading.Event()
        self._epoch = 0
        self._epochs: dict[int, int] = {}
        self._offsets: dict[int, OffsetTracker] = {}
        self._oldest = OldestRecordTracker()
        self._committing = False
        self._committed_at = 0.0

    def stop(self) -> None:
        """Leave after this round; from a signal handler or any thread."""
        self._stop.set()

    def run(self, join: Join) -> None:
        """Consume until stopped, then drain, commit and leave the group. `join` makes a member of the group.

        A membership that the client gives up is followed by another one. Raises Unavailable where nobody may
        join.
        """
        if self._reporter is not None:
            self._reporter.emit_started()
        try:
            run_memberships(self._stop, lambda: self._serve(join(self)))
        finally:
            self._emit(EventKind.STOPPED, owned=[])

    def _serve(self, source: RecordSource) -> None:
        """One membership, to its end."""
        self._source = source
        try:
            while not self._stop.is_set():
                self.step(source)
        except MemberExpelled as error:
            if self._epochs:
                self.on_lost(sorted(self._epochs), cause=str(error))
            raise
        finally:
            # Leaving revokes what is assigned: that drains and commits.
            source.close()
            self._committing = False

    def step(self, source: RecordSource) -> None:
        # Where something waits for a place, it waits for what is finished, not for what might be read.
        waiting = self._dispatcher.queued
        records = source.read(READ_RECORDS, 0 if waiting else POLL_SECONDS)
        now = time.monotonic()
        headroom = self._max_poll_seconds - (now - self._polled_at)
        self._polled_at = now
        self._check_membership()
        self._dispatcher.enqueue(records)
        self._collect(POLL_SECONDS if waiting else 0)
        self._dispatch(source)
        if now - self._committed_at >= COMMIT_SECONDS and not self._committing:
            self._commit_async(source)
        if now - self._heartbeat_at >= HEARTBEAT_SECONDS:
            self._heartbeat(headroom)

    def _check_membership(self) -> None:
        """Whether the assignment may be believed.

        This process may have been stopped for longer than its session. A poll that returns then proves nothing: what
        it gives was fetched before, and that the partitions are lost comes some polls later. An answer of the broker to
        a commit does prove it, for it refuses those of a member that it has put out.
        """
        if time.monotonic() - self._membership_confirmed_at > self._membership_ttl_seconds:
            self._membership_uncertain = True
        if self._membership_uncertain and any(offsets.position is not None for offsets in self._offsets.values()):
            return
        self._confirm_membership()

    def _confirm_membership(self) -> None:
        self._membership_uncertain = False
        self._membership_confirmed_at = time.monotonic()
        self._executor.confirm_membership()

    def _heartbeat(self, headroom: float) -> None:
        self._heartbeat_at = self._polled_at
        if self._reporter is None:
            return
        oldest, retrying = self._executor.vitals()
        reason = self._backpressure_reason()
        self._reporter.heartbeat(
            in_flight=self._in_flight,
            owned=sorted(self._epochs),
            epoch=self._epoch,
            oldest_seconds=round(oldest, 3),
            headroom_seconds=round(headroom, 1),
            paused=self._dispatcher.paused,
            retrying=retrying,
            quiet=reason == QUIET,
            breaker=None if reason == QUIET else reason,
            oldest_records=self._oldest.sample(self._offsets),
        )

    def _emit(
        self, kind: EventKind, partitions: Sequence[int] = (), owned: list[int] | None = None, cause: str | None = None
    ) -> None:
        if self._reporter is not None:
            self._reporter.emit(
                kind,
                epoch=self._epoch,
                partitions=sorted(partitions),
                owned=sorted(self._epochs) if owned is None else owned,
                cause=cause,
            )

    # --- assignments, inside `read` and `close`

    def on_assigned(self, committed: Mapping[int, tuple[int, str]]) -> None:
        """Begin a new epoch for each partition, with what a predecessor had finished beyond its commit."""
        self._begin_epoch(
            {
                partition: OffsetTracker(decode_metadata(metadata, offset)[1], offset)
                for partition, (offset, metadata) in committed.items()
            }
        )
        self._dispatcher.on_assigned(committed)
        self._emit(EventKind.ASSIGNED, list(committed))
        log.info("Partitions assigned", partitions=sorted(committed), epoch=self._epoch, owned=sorted(self._epochs))

    def _begin_epoch(self, offsets: Mapping[int, OffsetTracker]) -> None:
        self._epoch += 1
        self._epochs.update(dict.fromkeys(offsets, self._epoch))
        self._offsets.update(offsets)

    def on_revoked(self, partitions: Sequence[int]) -> None:
        """Finish what can be finished soon, commit, forget."""
        leaving = {number: self._epochs[number] for number in partitions if number in self._epochs}
        if leaving:
            self._drain(leaving)
            self._commit_sync(leaving)
        self._forget(leaving)
        self._emit(EventKind.REVOKED, partitions)
        log.info("Partitions revoked", partitions=sorted(partitions), owned=sorted(self._epochs))

    def on_lost(self, partitions: Sequence[int], cause: str | None = None) -> None:
        """They are another worker's already: drop the work, commit nothing."""
        self._forget({number: self._epochs[number] for number in partitions if number in self._epochs})
        self._emit(EventKind.LOST, partitions, cause=cause)
        log.warning("Partitions lost", partitions=sorted(partitions), owned=sorted(self._epochs))

    def _drain(self, leaving: dict[int, int]) -> None:
        """Wait for what is nearly done, for a bounded time; the rest is another worker's to do again."""
        if (
            self._membership_uncertain
            or time.monotonic() - self._membership_confirmed_at > self._membership_ttl_seconds
        ):
            return  # asleep for so long that they may be another's already
        deadline = time.monotonic() + self._drain_seconds
        self._executor.abandon(leaving, idle_longer_than=self._drain_seconds)
        while self._executor.in_progress(leaving) and (left := deadline - time.monotonic()) > 0:
            # In its callback this worker owns the partitions still, though it is not polling.
            self._confirm_membership()
            self._collect(min(left, DRAIN_STEP_SECONDS))
        self._executor.abandon(leaving)
        self._collect()

    def _forget(self, leaving: dict[int, int]) -> None:
        self._executor.abandon(leaving)
        self._dispatcher.on_revoked(leaving)
        for partition in leaving:
            del self._epochs[partition]
            del self._offsets[partition]

    # --- records

    def _collect(self, seconds: float = 0) -> None:
        """Take what is finished from the queue; wait `seconds` for the first."""
        try:
            if seconds:
                self._finish_record(self._executor.finished.get(timeout=seconds))
                time.sleep(BATCHING_SECONDS if self._in_flight < BUSY_RECORDS else BATCHING_SECONDS_BUSY)
            while True:
                self._finish_record(self._executor.finished.get_nowait())
        except queue.Empty:
            return

    def _finish_record(self, finished: FinishedRecord) -> None:
        if self._epochs.get(finished.partition) != finished.epoch:
            return
        self._offsets[finished.partition].finish(finished.offset)
        if self._reporter is not None:
            self._reporter.count_finished(1)

    def _dispatch(self, source: RecordSource) -> None:
        reason = self._backpressure_reason()
        # Only what is in progress finds out that a server is back: with nothing in progress, some is taken in to try.
        held = reason is not None and (reason == QUIET or self._in_flight > 0)
        # What was fetched before this process was stopped may be another's by now.
        begun = self._dispatcher.dispatch(self._partition_usage(), held=held or self._membership_uncertain)
        fresh = self._track(begun)
        if fresh:
            self._executor.start(fresh, self._epochs)
        pause, resume = self._dispatcher.flow_control(held=held)
        if pause:
            source.pause(pause)
        if resume:
            source.resume(resume)

    def _track(self, begun: Sequence[Record]) -> list[Record]:
        """Note the records as delivered, and return those that are not finished already."""
        fresh: list[Record] = []
        for record in begun:
            if self._offsets[record.partition].goes_back(record.offset):
                # Its topic was recreated, or its log was cut: the client resets its position if the offset is gone.
                # Only a new assignment knows which topic it is and where it is safe to continue.
                raise MemberExpelled(f"partition {record.partition}: offset {record.offset} was delivered again")
            if self._offsets[record.partition].track(record.offset):
                fresh.append(record)
        return fresh

    @property
    def _in_flight(self) -> int:
        return sum(offsets.unfinished for offsets in self._offsets.values())

    def _partition_usage(self) -> dict[int, PartitionUsage]:
        return {
            partition: PartitionUsage(offsets.unfinished, offsets.span) for partition, offsets in self._offsets.items()
        }

    # --- commits

    def _commit_async(self, source: RecordSource) -> None:
        self._committed_at = time.monotonic()
        self._advance_positions(source)
        commits = self._commits_due(self._epochs, force=self._membership_uncertain)
        if commits:
            self._committing = True
            epochs = {partition: self._epochs[partition] for partition in commits}
            asked = self._membership_uncertain

            def on_done(taken: Mapping[int, Commit]) -> None:
                self._on_committed(taken, epochs)
                if asked and all(partition in taken or partition not in self._epochs for partition in epochs):
                    self._confirm_membership()

            source.commit_async(commits, on_done)

    def _advance_positions(self, source: RecordSource) -> None:
        """Where all that was read is finished, the position is what may be committed: beyond a transaction's marker."""
        idle = [
            partition
            for partition, offsets in self._offsets.items()
            if not offsets.span and not self._dispatcher.has_queued(partition)
        ]
        for partition, position in source.positions(idle).items() if idle else ():
            self._offsets[partition].advance_to(position)

    def _commit_sync(self, leaving: dict[int, int]) -> None:
        commits = self._commits_due(leaving)
        if commits and self._source is not None:
            self._on_committed(self._source.commit_sync(commits, FINAL_COMMIT_SECONDS), leaving, final=True)

    def _commits_due(self, epochs: Mapping[int, int], *, force: bool = False) -> dict[int, Commit]:
        source = self._source
        due = {
            partition: self._offsets[partition].next_commit(
                self._worker_id, epoch, source.topic_id(partition) if source else "", force=force
            )
            for partition, epoch in epochs.items()
        }
        return {partition: commit for partition, commit in due.items() if commit is not None}

    def _on_committed(self, taken: Mapping[int, Commit], epochs: Mapping[int, int], *, final: bool = False) -> None:
        if not final:
            self._committing = False
        for partition, commit in taken.items():
            if self._epochs.get(partition) == epochs[partition]:
                self._offsets[partition].on_committed(commit)
                log.debug("Committed offset", partition=partition, offset=commit.offset)
