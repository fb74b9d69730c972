"""File processor.

Reads   the topic of a queue (`file.create`), as a member of its group (`file-service-group`); commits offsets there.
Writes  the files' objects to S3; `file.progress`, `file.created`, `file.create.dlq`, `worker.events`. No database.
Control `worker.commands`: cancel files, be quiet, resume.
Dies    before the PUT: nothing has happened; another worker processes the record.
        between PUT and `file.created`, or between that and the commit: another worker reprocesses the record, with the
        same bytes under the same key. The first terminal status of the run stays.

This module is the thread that owns the consumer. It polls, dispatches records to the executor, collects the finished
ones, commits, pauses and resumes, and follows the group's assignments. It blocks in the poll only, so the group does
not expel the worker, however long a file takes. An epoch is one assignment of a partition. A record that finishes after
its epoch has ended is ignored, because another worker may process it already.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from filemill.domain.offsets import Commit, OffsetTracker, decode_metadata
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.records import Record
from filemill.domain.retry import RetryPolicy
from filemill.domain.worker_events import HEARTBEAT_SECONDS, EventKind
from filemill.errors import MemberExpelled
from filemill.ports import Clock, RebalanceListener, RecordSource
from filemill_workers.file_processor.dispatcher import Dispatcher, PartitionUsage, QueueLimits
from filemill_workers.file_processor.executor import Executor, FinishedRecord
from filemill_workers.file_processor.membership import QUIET, REJOIN_POLICY, run_memberships
from filemill_workers.file_processor.oldest_records import OldestRecordTracker
from filemill_workers.file_processor.reporter import ConsumerReporter

log = structlog.get_logger("processor")

Join = Callable[[RebalanceListener], RecordSource]


class ConsumerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and intervals of a file processor. Times in seconds.

    `concurrency` and `partition_concurrency` (None: the same): the records in progress, in all and of one partition.
    `drain_seconds`: how long a revocation waits for records in progress. `max_poll_seconds`: `max.poll.interval.ms`.
    `membership_ttl_seconds`: after this time without a poll the membership is uncertain until the broker confirms it.

    A step takes finished records together for `batching_seconds`, or `busy_batching_seconds` from `busy_records` in
    progress on: a step for each record would cost more than the records.
    """

    concurrency: int
    drain_seconds: float
    partition_concurrency: int | None = None
    max_poll_seconds: float = 300.0
    membership_ttl_seconds: float = 3.0
    read_records: int = 500
    poll_seconds: float = 0.05
    batching_seconds: float = 0.002
    busy_records: int = 100
    busy_batching_seconds: float = 0.01
    commit_interval_seconds: float = 0.2
    final_commit_seconds: float = 5.0
    drain_step_seconds: float = 0.05
    queue_limits: QueueLimits = QueueLimits()
    rejoin_policy: RetryPolicy = REJOIN_POLICY


class FileProcessor:
    """Consumes one topic as one member of a group. (port: RebalanceListener).

    All methods but `stop` run on the thread that calls `run`.
    """

    def __init__(
        self,
        executor: Executor,
        options: ConsumerOptions,
        *,
        worker_id: str,
        reporter: ConsumerReporter | None = None,
        backpressure_reason: Callable[[], str | None] = lambda: None,
        claim_places: Callable[[int, int], int] | None = None,
        queue: str = DEFAULT_QUEUE,
        clock: Clock = time.monotonic,
    ) -> None:
        """`backpressure_reason`: why no records may start now, QUIET or an unreachable server; None if they may.

        `claim_places`: see `Dispatcher`. `queue`: its name, for the log.
        """
        self._log = log if queue == DEFAULT_QUEUE else log.bind(queue=queue)
        self._options = options
        self._clock = clock
        self._reporter = reporter
        self._backpressure_reason = backpressure_reason
        self._polled_at = self._heartbeat_at = clock()
        self._membership_confirmed_at = clock()
        self._membership_uncertain = False
        self._executor = executor
        self._worker_id = worker_id
        self._dispatcher = Dispatcher(
            options.concurrency,
            options.partition_concurrency or options.concurrency,
            options.queue_limits,
            claim_places,
        )
        self._claim_places = claim_places
        self._source: RecordSource | None = None
        self._stop = threading.Event()
        self._epoch = 0
        self._epochs: dict[int, int] = {}
        self._offsets: dict[int, OffsetTracker] = {}
        self._oldest = OldestRecordTracker(clock)
        self._committing = False
        self._committed_at = float("-inf")

    @property
    def in_flight(self) -> int:
        """The number of records in progress."""
        return sum(offsets.unfinished for offsets in self._offsets.values())

    def stop(self) -> None:
        """Stop after the current step. For signal handlers and any thread."""
        self._stop.set()

    def run(self, join: Join) -> None:
        """Consume until stopped, then drain, commit and leave the group. `join` creates a member of the group.

        A membership that the client loses for good is followed by another one. Raises Unavailable if the worker cannot
        join the group.
        """
        if self._reporter is not None:
            self._reporter.emit_started()
        try:
            run_memberships(self._stop, lambda: self._serve(join(self)), self._options.rejoin_policy)
        finally:
            self._emit(EventKind.STOPPED, owned=[])

    def _serve(self, source: RecordSource) -> None:
        """Run one membership until it ends."""
        try:
            while not self._stop.is_set():
                self.step(source)
        except MemberExpelled as error:
            if self._epochs:
                self.on_lost(sorted(self._epochs), cause=str(error))
            raise
        finally:
            self.leave(source)

    def leave(self, source: RecordSource) -> None:
        """Leave the group. This revokes the assigned partitions, which drains and commits."""
        source.close()
        self._committing = False
        self._withdraw()

    def step(self, source: RecordSource) -> None:
        """Run one cycle of the loop on a member of the group. Raises Unavailable, MemberExpelled."""
        self._source = source
        # If records are queued, the next event is a finished record, not a fetched one.
        queued = self._dispatcher.queued
        records = source.read(self._options.read_records, 0 if queued else self._options.poll_seconds)
        now = self._clock()
        headroom = self._options.max_poll_seconds - (now - self._polled_at)
        self._polled_at = now
        self._check_membership()
        self._dispatcher.enqueue(records)
        self._collect(self._options.poll_seconds if queued else 0)
        self._dispatch(source)
        if now - self._committed_at >= self._options.commit_interval_seconds and not self._committing:
            self._commit_async(source)
        if now - self._heartbeat_at >= HEARTBEAT_SECONDS:
            self._heartbeat(headroom)

    def _check_membership(self) -> None:
        """Decide whether this worker still owns its partitions.

        The process may have been paused for longer than its session. A poll that returns after that proves nothing:
        its records were fetched before, and the loss of the partitions is reported some polls later. An accepted commit
        is a proof, because the broker refuses the commits of an expelled member.
        """
        if self._clock() - self._membership_confirmed_at > self._options.membership_ttl_seconds:
            self._membership_uncertain = True
        if self._membership_uncertain and any(offsets.position is not None for offsets in self._offsets.values()):
            return
        self._confirm_membership()

    def _confirm_membership(self) -> None:
        self._membership_uncertain = False
        self._membership_confirmed_at = self._clock()
        self._executor.confirm_membership()

    def _heartbeat(self, headroom: float) -> None:
        self._heartbeat_at = self._polled_at
        if self._reporter is None:
            return
        status = self._executor.status()
        reason = self._backpressure_reason()
        self._reporter.heartbeat(
            in_flight=self.in_flight,
            owned=sorted(self._epochs),
            epoch=self._epoch,
            oldest_seconds=round(status.oldest_seconds, 3),
            headroom_seconds=round(headroom, 1),
            paused=self._dispatcher.paused,
            retrying=status.retrying,
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
        """Begin a new epoch of each partition, with the offsets that its last owner had finished above the commit."""
        self._begin_epoch(
            {
                partition: OffsetTracker(decode_metadata(metadata, offset)[1], offset)
                for partition, (offset, metadata) in committed.items()
            }
        )
        self._dispatcher.on_assigned(committed)
        self._emit(EventKind.ASSIGNED, list(committed))
        self._log.info(
            "Partitions assigned", partitions=sorted(committed), epoch=self._epoch, owned=sorted(self._epochs)
        )

    def _begin_epoch(self, offsets: Mapping[int, OffsetTracker]) -> None:
        self._epoch += 1
        self._epochs.update(dict.fromkeys(offsets, self._epoch))
        self._offsets.update(offsets)

    def on_revoked(self, partitions: Sequence[int]) -> None:
        """Drain the partitions, commit their offsets and end their epochs."""
        leaving = {number: self._epochs[number] for number in partitions if number in self._epochs}
        if leaving:
            self._drain(leaving)
            self._commit_sync(leaving)
        self._forget(leaving)
        self._emit(EventKind.REVOKED, partitions)
        self._log.info("Partitions revoked", partitions=sorted(partitions), owned=sorted(self._epochs))

    def on_lost(self, partitions: Sequence[int], cause: str | None = None) -> None:
        """End the epochs of partitions that another worker may own already: abandon their records, commit nothing."""
        self._forget({number: self._epochs[number] for number in partitions if number in self._epochs})
        self._emit(EventKind.LOST, partitions, cause=cause)
        self._log.warning("Partitions lost", partitions=sorted(partitions), owned=sorted(self._epochs))

    def _drain(self, leaving: dict[int, int]) -> None:
        """Wait up to `drain_seconds` for records in progress. Another worker reprocesses the others."""
        now = self._clock()
        if self._membership_uncertain or now - self._membership_confirmed_at > self._options.membership_ttl_seconds:
            return  # the process was paused for so long that another worker may own them
        self._withdraw()
        deadline = now + self._options.drain_seconds
        self._executor.abandon(leaving, idle_longer_than=self._options.drain_seconds)
        while self._executor.in_progress(leaving) and (left := deadline - self._clock()) > 0:
            # Inside its callback this worker still owns the partitions, although it does not poll.
            self._confirm_membership()
            self._collect(min(left, self._options.drain_step_seconds))
        self._executor.abandon(leaving)
        self._collect()

    def _withdraw(self) -> None:
        """Claim no places while nothing is dispatched, so that the other queues get them."""
        if self._claim_places is not None:
            self._claim_places(self.in_flight, 0)

    def _forget(self, leaving: dict[int, int]) -> None:
        self._executor.abandon(leaving)
        self._dispatcher.on_revoked(leaving)
        for partition in leaving:
            del self._epochs[partition]
            del self._offsets[partition]

    # --- records

    def _collect(self, seconds: float = 0) -> None:
        """Process the finished records of the executor; wait up to `seconds` for the first."""
        count = 0
        try:
            if seconds:
                count += self._finish_record(self._executor.finished.get(timeout=seconds))
                busy = self.in_flight >= self._options.busy_records
                time.sleep(self._options.busy_batching_seconds if busy else self._options.batching_seconds)
            while True:
                count += self._finish_record(self._executor.finished.get_nowait())
        except queue.Empty:
            if count and self._reporter is not None:
                self._reporter.count_finished(count)

    def _finish_record(self, finished: FinishedRecord) -> bool:
        """Mark a record as finished; returns False if its epoch has ended."""
        if self._epochs.get(finished.partition) != finished.epoch:
            return False
        self._offsets[finished.partition].finish(finished.offset)
        return True

    def _dispatch(self, source: RecordSource) -> None:
        reason = self._backpressure_reason()
        # Only records in progress find out that a server is reachable again: without any, some are started as probes.
        backpressure = reason is not None and (reason == QUIET or self.in_flight > 0)
        # Records that were fetched before a pause of the process may be another worker's by now.
        started = self._dispatcher.dispatch(
            self._partition_usage(), backpressure=backpressure or self._membership_uncertain
        )
        unfinished = self._track(started)
        if unfinished:
            self._executor.start(unfinished, self._epochs)
        pause, resume = self._dispatcher.flow_control(backpressure=backpressure)
        if pause:
            source.pause(pause)
        if resume:
            source.resume(resume)

    def _track(self, started: Sequence[Record]) -> list[Record]:
        """Track the records, and return those that are not finished already."""
        unfinished: list[Record] = []
        for record in started:
            if self._offsets[record.partition].goes_back(record.offset):
                # Its topic was recreated or its log truncated: the client resets its position if the offset is gone.
                # Only a new assignment tells which topic it is and where it is safe to continue.
                raise MemberExpelled(f"partition {record.partition}: offset {record.offset} was delivered again")
            if self._offsets[record.partition].track(record.offset):
                unfinished.append(record)
        return unfinished

    def _partition_usage(self) -> dict[int, PartitionUsage]:
        return {
            partition: PartitionUsage(offsets.unfinished, offsets.span) for partition, offsets in self._offsets.items()
        }

    # --- commits

    def _commit_async(self, source: RecordSource) -> None:
        self._committed_at = self._clock()
        self._advance_positions(source)
        commits = self._commits_due(self._epochs, force=self._membership_uncertain)
        if commits:
            self._committing = True
            epochs = {partition: self._epochs[partition] for partition in commits}
            was_uncertain = self._membership_uncertain

            def on_done(accepted: Mapping[int, Commit]) -> None:
                self._on_committed(accepted, epochs)
                if was_uncertain and all(
                    partition in accepted or partition not in self._epochs for partition in epochs
                ):
                    self._confirm_membership()

            source.commit_async(commits, on_done)

    def _advance_positions(self, source: RecordSource) -> None:
        """Where all records are finished, let the committed offset pass offsets without records, as control records."""
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
            accepted = self._source.commit_sync(commits, self._options.final_commit_seconds)
            self._on_committed(accepted, leaving, final=True)

    def _commits_due(self, epochs: Mapping[int, int], *, force: bool = False) -> dict[int, Commit]:
        source = self._source
        due = {
            partition: self._offsets[partition].next_commit(
                self._worker_id, epoch, source.topic_id(partition) if source else "", force=force
            )
            for partition, epoch in epochs.items()
        }
        return {partition: commit for partition, commit in due.items() if commit is not None}

    def _on_committed(self, accepted: Mapping[int, Commit], epochs: Mapping[int, int], *, final: bool = False) -> None:
        if not final:
            self._committing = False
        for partition, commit in accepted.items():
            if self._epochs.get(partition) == epochs[partition]:
                self._offsets[partition].on_committed(commit)
                self._log.debug("Committed offset", partition=partition, offset=commit.offset)
