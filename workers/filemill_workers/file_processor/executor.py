"""Processes records on one asyncio event loop, on a thread of its own.

The consumer's thread passes records in batches and takes finished ones from a queue. Nothing here uses the consumer.
The producer belongs to this thread: its delivery reports wake the tasks directly. A processor that serves several
queues has an executor for each, with its own assignments and its own finished records; they share the thread.
"""

import asyncio
import contextlib
import functools
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog
import uvloop

from filemill.domain.messages import Headers
from filemill.domain.records import Record
from filemill.errors import DeadLetterCode, PermanentError, Unavailable
from filemill.ports import Clock, DeliveryReport, Publisher
from filemill_workers.file_processor.record_task import ProcessingContext, RecordTask

log = structlog.get_logger("processor")

# How often delivery reports are polled while any are pending. Shorter costs CPU, longer delays commits.
DELIVERY_POLL_SECONDS = 0.005
# The longest time that results wait for the delivery reports of the ones before them. A partition without a leader must
# not delay the results for others any longer.
HOLD_SECONDS = 0.25
MEMBERSHIP_CHECK_SECONDS = 0.05
# From so many records in progress on, the loop pauses after an upload, so that several uploads wake it together. Each
# wake takes Python's lock from the thread of the S3 client and back, a fifth of the CPU of an upload.
BUSY_RECORDS = 100
BUSY_PAUSE_SECONDS = 0.005


class FinishedRecord(msgspec.Struct, frozen=True):
    """A record whose effects are durable."""

    partition: int
    epoch: int
    offset: int


class ExecutorStatus(msgspec.Struct, frozen=True):
    """The state of the records in progress.

    `oldest_seconds`: the age of the oldest one. `retrying`: those that wait for a retry. `idle`: those that only wait,
    for simulated work, a retry or the record before them. `pending_deliveries`: publications without a delivery report;
    executors that share a thread count them at their host.
    """

    oldest_seconds: float = 0.0
    retrying: int = 0
    idle: int = 0
    pending_deliveries: int = 0


class _Publication(NamedTuple):
    """A record that waits to be passed to the producer, and the future of its delivery report.

    Without a future, no task waits for the report, and the record may be lost.
    """

    topic: str
    value: bytes | None
    headers: Headers
    delivered: asyncio.Future[DeliveryReport] | None
    key: str | None = None


class _Link(NamedTuple):
    """A record's place in the order of its partition: the end of the record before it, and its own end."""

    before: asyncio.Future[None] | None
    over: asyncio.Future[None]


class Executor:
    """Runs record tasks. Its public methods are for the consumer's thread, except as noted."""

    def __init__(
        self,
        publisher: Publisher,
        context: Callable[["Executor"], ProcessingContext],
        *,
        one_at_a_time: bool,
        membership_ttl_seconds: float,
        batching_seconds: float = 0.0,
        clock: Clock = time.monotonic,
        on_close: Callable[[], Awaitable[None]] | None = None,
        host: "Executor | None" = None,
    ) -> None:
        """`one_at_a_time`: process the records of a partition in order, one after the other.

        `membership_ttl_seconds`: how long a confirmation of the membership is valid. `batching_seconds`: how long a
        published record waits for others; 0 passes it to the producer at once. `on_close` is called at the end of the
        loop. `host`: the executor whose thread and batches this one uses; close it after this one.
        """
        self.finished: queue.SimpleQueue[FinishedRecord] = queue.SimpleQueue()
        self._publisher = publisher
        self._one_at_a_time = one_at_a_time
        self._membership_ttl_seconds = membership_ttl_seconds
        self._clock = clock
        self._on_close = on_close
        self._membership_confirmed_at = clock()
        # Each finished upload wakes the loop from another thread, cheaper with uvloop (docs/performance-log.md).
        self._host = host
        self._loop: uvloop.Loop = uvloop.new_event_loop() if host is None else host._loop  # noqa: SLF001
        self._tasks: dict[tuple[int, int], dict[asyncio.Task[None], RecordTask]] = {}
        # One at a time: the end of the last record of each epoch, which the next one waits for.
        self._last: dict[tuple[int, int], asyncio.Future[None]] = {}
        self._probe_task: asyncio.Task[None] | None = None
        self._batching_seconds = batching_seconds
        self._batch: list[_Publication] = []
        self._batch_began_at = 0.0
        self._pending_deliveries = 0
        self._polling = False
        self._pausing = False
        self._context = context(self)
        if host is None:
            self._thread = threading.Thread(target=self._run_loop, name="executor", daemon=True)
            self._thread.start()
        else:
            self._thread = host._thread  # noqa: SLF001
        # All executors of the thread.
        self._neighbours: list[Executor] = [] if host is None else host._neighbours  # noqa: SLF001
        self._neighbours.append(self)

    # --- called by the consumer's thread

    def confirm_membership(self) -> None:
        """Confirm that this worker owns its partitions. Effects may begin until the confirmation expires."""
        self._membership_confirmed_at = self._clock()

    def start(self, records: Sequence[Record], epochs: dict[int, int]) -> None:
        """Start processing these records, each in the epoch of its partition."""
        self._loop.call_soon_threadsafe(self._start, list(records), dict(epochs))

    def abandon(self, epochs: dict[int, int], idle_longer_than: float | None = None) -> None:
        """Abandon the records of these epochs; with `idle_longer_than`, only those that will be idle for longer.

        After this returns an abandoned record has no further effect, except for a call to a server that has begun.
        """
        self._call_and_wait(lambda: self._abandon(set(epochs.items()), idle_longer_than))

    def abandon_all(self) -> None:
        """Abandon the records of all epochs."""
        self._call_and_wait(lambda: self._abandon(set(self._tasks), None))

    def _call_and_wait(self, call: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            call()
            done.set()

        self._loop.call_soon_threadsafe(run)
        while not done.wait(1.0):
            self._require_thread()

    def cancel(self, files: Sequence[tuple[int, int]]) -> None:
        """Cancel the records in progress of these files and runs; they finish as cancelled. For any thread."""
        self._loop.call_soon_threadsafe(self._cancel, set(files))

    def run_probe(self, call: Callable[[], Awaitable[None]]) -> None:
        """Run a call in the background, one at a time. Ignored while another one runs; Unavailable is ignored too."""
        self._loop.call_soon_threadsafe(self._run_probe, call)

    def status(self) -> ExecutorStatus:
        """The state of the records in progress. For any thread.

        Raises RuntimeError if the thread has ended, because the records in progress would never finish.
        """
        self._require_thread()
        tasks = [task for group in list(self._tasks.values()) for task in list(group.values())]
        now = self._clock()
        oldest = min((task.created_at for task in tasks), default=now)
        return ExecutorStatus(
            now - oldest,
            sum(task.retrying for task in tasks),
            sum(task.idle_until is not None for task in tasks),
            self._pending_deliveries + len(self._batch),
        )

    def in_progress(self, epochs: dict[int, int]) -> int:
        """The number of records in progress of these epochs. For any thread."""
        return sum(len(self._tasks.get(epoch, ())) for epoch in epochs.items())

    def close(self) -> None:
        """Abandon all records and end the thread, if it is its own."""
        if self._host is not None:
            self.abandon_all()
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _require_thread(self) -> None:
        if not self._thread.is_alive():
            raise RuntimeError("the thread that processes records has ended")

    # --- called by record tasks, on the executor's thread

    async def publish(self, topic: str, value: bytes | None, headers: Headers) -> None:
        """Publish and wait for the acknowledgement. Raises Unavailable, PermanentError."""
        if self._host is not None:  # the producer is common, and so is the batch that waits for its delivery reports
            await self._host.publish(topic, value, headers)
            return
        delivered: asyncio.Future[DeliveryReport] = self._loop.create_future()
        self._collect(_Publication(topic, value, headers, delivered))
        report = await delivered
        if report.too_large:
            raise PermanentError(
                f"a record of {len(value or b'')} bytes is too large for {topic}", DeadLetterCode.RECORD_TOO_LARGE
            )
        if report.error is not None:
            raise Unavailable(f"Kafka did not accept a record for {topic}: {report.error}")

    def publish_nowait(self, topic: str, value: bytes, key: str | None = None) -> None:
        """Publish without waiting, for records that may be lost, such as progress."""
        if self._host is not None:
            self._host.publish_nowait(topic, value, key)
        else:
            self._collect(_Publication(topic, value, [], None, key))

    async def wait_for_membership(self) -> None:
        """Wait until the membership is confirmed.

        When a process was paused for longer than its session, its timers are due and other workers own its partitions.
        It must not begin any effect before the broker has confirmed its membership.
        """
        while self._clock() - self._membership_confirmed_at > self._membership_ttl_seconds:  # noqa: ASYNC110 - another thread polls
            await asyncio.sleep(MEMBERSHIP_CHECK_SECONDS)

    def collect_uploads(self) -> None:
        """Process the uploads that end soon together with the one that has just ended, if many are in progress."""
        if self._host is not None:
            self._host.collect_uploads()
            return
        in_progress = sum(len(group) for executor in self._neighbours for group in executor._tasks.values())  # noqa: SLF001
        if not self._pausing and in_progress >= BUSY_RECORDS:
            self._pausing = True
            self._loop.call_soon(self._pause)

    # --- internal, on the executor's thread

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._abandon(set(self._tasks), None)
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            if self._on_close is not None:
                self._loop.run_until_complete(self._on_close())
                self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _collect(self, publication: _Publication) -> None:
        """Pass a record to the producer, with others if they are collected. Raises Unavailable, PermanentError."""
        if self._batching_seconds:
            if not self._batch:
                self._batch_began_at = self._loop.time()
            self._batch.append(publication)
        elif publication.delivered is None:
            self._produce_nowait(publication)
        else:
            self._produce(publication, publication.delivered)
        if not self._polling:
            self._polling = True
            self._loop.call_later(DELIVERY_POLL_SECONDS, self._poll_publisher)

    def _produce_nowait(self, publication: _Publication) -> None:
        """Pass a record to the producer that may be lost."""
        try:
            self._publisher.publish(publication.topic, publication.value, key=publication.key)
        except (Unavailable, PermanentError) as error:
            log.debug("A record that may be lost was dropped", topic=publication.topic, error=str(error))

    def _produce(self, publication: _Publication, delivered: asyncio.Future[DeliveryReport]) -> None:
        """Pass a record to the producer. Raises Unavailable, PermanentError."""

        def on_delivery(report: DeliveryReport) -> None:
            self._pending_deliveries -= 1
            if not delivered.done():  # its record may have been abandoned
                delivered.set_result(report)

        self._publisher.publish(
            publication.topic, publication.value, on_delivery, key=publication.key, headers=publication.headers
        )
        self._pending_deliveries += 1

    def _produce_batch(self) -> None:
        """Pass the collected records to the producer if they have waited long enough.

        They also wait for the delivery reports of the batch before. An idempotent producer has one request per
        partition in flight, and librdkafka polls without a pause while further records of that partition wait longer
        than `linger.ms`: a whole core at a slow broker (docs/performance-log.md).
        """
        waited = self._loop.time() - self._batch_began_at
        if not self._batch or waited < (HOLD_SECONDS if self._pending_deliveries else self._batching_seconds):
            return
        batch, self._batch = self._batch, []
        for publication in batch:
            delivered = publication.delivered
            if delivered is None:
                self._produce_nowait(publication)
            elif not delivered.done():  # its record was not abandoned
                try:
                    self._produce(publication, delivered)
                except Exception as error:  # noqa: BLE001 - its task raises it, and the others are produced
                    delivered.set_exception(error)

    def _pause(self) -> None:
        """Block the loop after its current step, on purpose: ended uploads queue up meanwhile."""
        self._pausing = False
        time.sleep(BUSY_PAUSE_SECONDS)

    def _poll_publisher(self) -> None:
        try:
            self._publisher.poll(0)
            self._produce_batch()
        finally:
            self._polling = bool(self._pending_deliveries or self._batch)
            if self._polling:
                self._loop.call_later(DELIVERY_POLL_SECONDS, self._poll_publisher)

    def _start(self, records: list[Record], epochs: dict[int, int]) -> None:
        for record in records:
            epoch = (record.partition, epochs[record.partition])
            record_task = RecordTask(record, self._context)
            link = None
            if self._one_at_a_time:
                link = _Link(self._last.get(epoch), self._loop.create_future())
                self._last[epoch] = link.over
                if link.before is not None:
                    record_task.idle_until = float("inf")
            self._spawn(self._run(record_task, epoch, link), record_task, epoch, link)

    def _spawn(
        self, run: Coroutine[Any, Any, None], record_task: RecordTask, epoch: tuple[int, int], link: _Link | None
    ) -> None:
        task = self._loop.create_task(run)
        self._tasks.setdefault(epoch, {})[task] = record_task
        task.add_done_callback(functools.partial(self._on_task_done, record_task, epoch, link))

    async def _run(self, record_task: RecordTask, epoch: tuple[int, int], link: _Link | None) -> None:
        if link is not None and link.before is not None:
            record_task.idle_until = float("inf")
            await asyncio.wait([link.before])
            record_task.idle_until = None
        await record_task.run()
        record_task.finished = True
        self.finished.put(FinishedRecord(epoch[0], epoch[1], record_task.record.offset))

    async def _run_again(
        self, record_task: RecordTask, epoch: tuple[int, int], link: _Link | None, seconds: float
    ) -> None:
        await record_task.wait(seconds)
        await self._run(record_task, epoch, link)

    def _on_task_done(
        self, record_task: RecordTask, epoch: tuple[int, int], link: _Link | None, task: asyncio.Task[None]
    ) -> None:
        """Handle every end of a task: its record is finished or abandoned, or it is run again."""
        tasks = self._tasks.get(epoch, {})
        tasks.pop(task, None)
        error = asyncio.CancelledError("its task was cancelled") if task.cancelled() else task.exception()
        if not record_task.finished and not record_task.abandoned:
            seconds = record_task.record_rerun()
            self._spawn(self._run_again(record_task, epoch, link, seconds), record_task, epoch, link)
            record_task.report_rerun(error or RuntimeError("its task returned early"), seconds)
            return
        if not tasks:
            self._tasks.pop(epoch, None)
        if link is not None:
            link.over.set_result(None)
            if self._last.get(epoch) is link.over:
                del self._last[epoch]

    def _run_probe(self, call: Callable[[], Awaitable[None]]) -> None:
        async def probe() -> None:
            with contextlib.suppress(Unavailable):
                await call()

        if self._probe_task is None or self._probe_task.done():
            self._probe_task = self._loop.create_task(probe())

    def _cancel(self, files: set[tuple[int, int]]) -> None:
        for group in self._tasks.values():
            for task, record_task in group.items():
                if record_task.file_run in files and record_task.cancel():
                    task.cancel()

    def _abandon(self, epochs: set[tuple[int, int]], idle_longer_than: float | None) -> None:
        latest = self._loop.time() + (idle_longer_than or 0)
        for epoch in epochs:
            for task, record_task in self._tasks.get(epoch, {}).items():
                idle_until = record_task.idle_until
                if idle_longer_than is None or (idle_until is not None and idle_until > latest):
                    record_task.abandoned = True
                    task.cancel()
