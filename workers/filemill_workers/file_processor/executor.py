"""Where records become files: one asyncio loop on a thread of its own.

The consumer's thread (`consumer.py`) hands records over in batches and collects finished ones from a queue. Nothing
here touches the consumer. The producer belongs to this thread: its acknowledgements wake the passages directly.
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
from filemill.ports import DeliveryReport, Publisher
from filemill_workers.file_processor.record_task import ProcessingContext, RecordTask

log = structlog.get_logger("processor")

# How often acknowledgements are collected while any are due. Shorter costs idle turns, longer holds up commits.
ACKNOWLEDGEMENT_SECONDS = 0.005
MEMBERSHIP_CHECK_SECONDS = 0.05


class FinishedRecord(msgspec.Struct, frozen=True):
    """A record whose effects are durable."""

    partition: int
    epoch: int
    offset: int


class _Sequence(NamedTuple):
    """Where a record stands in its partition's order: the end of the one before it, and its own."""

    before: asyncio.Future[None] | None
    over: asyncio.Future[None]


class Executor:
    """Runs passages. `start`, `abandon` and `shut` are called by the consumer's thread."""

    def __init__(
        self,
        publisher: Publisher,
        context: Callable[["Executor"], ProcessingContext],
        *,
        one_at_a_time: bool,
        membership_ttl_seconds: float,
    ) -> None:
        self.finished: queue.SimpleQueue[FinishedRecord] = queue.SimpleQueue()
        self._publisher = publisher
        self._one_at_a_time = one_at_a_time
        self._membership_ttl_seconds = membership_ttl_seconds
        self._membership_confirmed_at = time.monotonic()
        # It is woken by each upload's end, from another thread: uvloop does that for less (docs/performance.md).
        self._loop = uvloop.new_event_loop()
        self._tasks: dict[tuple[int, int], dict[asyncio.Task[None], RecordTask]] = {}
        # One at a time: what the next record of an epoch waits for, the end of the one before it.
        self._last: dict[tuple[int, int], asyncio.Future[None]] = {}
        self._probe: asyncio.Task[None] | None = None
        self._pending_deliveries = 0  # acknowledgements that somebody waits for
        self._polling = False
        self._context = context(self)
        self._thread = threading.Thread(target=self._run_loop, name="workshop", daemon=True)
        self._thread.start()

    # --- called by the consumer's thread

    def confirm_membership(self) -> None:
        """The consumer's assignment may be believed, from now until some time without such a word."""
        self._membership_confirmed_at = time.monotonic()

    def start(self, records: Sequence[Record], epochs: dict[int, int]) -> None:
        """Begin these records, each in its partition's epoch."""
        self._loop.call_soon_threadsafe(self._start, list(records), dict(epochs))

    def abandon(self, epochs: dict[int, int], idle_longer_than: float | None = None) -> None:
        """Drop the passages of these epochs; with `idle_longer_than`, only those that still wait for longer than that.

        Returns when it is done: nothing dropped has an effect afterwards, save what was already under way to a server.
        """
        done = threading.Event()

        def abandon() -> None:
            self._abandon(set(epochs.items()), idle_longer_than)
            done.set()

        self._loop.call_soon_threadsafe(abandon)
        while not done.wait(1.0):
            if not self._thread.is_alive():
                raise RuntimeError("the thread that processes records has ended")

    def cancel(self, files: Sequence[tuple[int, int]]) -> None:
        """Let go, in order, of what is in progress of these files and runs."""
        self._loop.call_soon_threadsafe(self._cancel, set(files))

    def run_probe(self, call: Callable[[], Awaitable[None]]) -> None:
        """Run something beside the passages, one at a time; where one still runs, or fails, nothing happens."""
        self._loop.call_soon_threadsafe(self._run_probe, call)

    def vitals(self) -> tuple[float, int]:
        """The age in seconds of the oldest passage, and how many wait for another try.

        Raises RuntimeError where the thread has ended: nothing that is in progress would ever finish.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the thread that processes records has ended")
        passages = [passage for group in list(self._tasks.values()) for passage in list(group.values())]
        oldest = min((passage.created_at for passage in passages), default=time.monotonic())
        return time.monotonic() - oldest, sum(passage.retrying for passage in passages)

    def in_progress(self, epochs: dict[int, int]) -> int:
        """How many passages of these epochs are not over."""
        return sum(len(self._tasks.get(epoch, ())) for epoch in epochs.items())

    def close(self) -> None:
        """Drop everything and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # --- called by passages, on the workshop's thread

    async def publish(self, topic: str, value: bytes | None, headers: Headers) -> None:
        """Publish and wait for the acknowledgement. Raises Unavailable, PermanentError."""
        receipt: asyncio.Future[DeliveryReport] = self._loop.create_future()

        def on_receipt(answer: DeliveryReport) -> None:
            self._pending_deliveries -= 1
            if not receipt.done():  # its passage may have been dropped
                receipt.set_result(answer)

        self._publisher.publish(topic, value, on_receipt, headers=headers)
        self._pending_deliveries += 1
        if not self._polling:
            self._polling = True
            self._loop.call_later(ACKNOWLEDGEMENT_SECONDS, self._poll_publisher)
        answer = await receipt
        if answer.too_large:
            raise PermanentError(
                f"a record of {len(value or b'')} bytes is too large for {topic}", DeadLetterCode.RECORD_TOO_LARGE
            )
        if answer.error is not None:
            raise Unavailable(f"Kafka did not store a record for {topic}: {answer.error}", code=answer.code)

    def publish_nowait(self, topic: str, value: bytes) -> None:
        """Publish without waiting: for what may get lost, as progress may."""
        try:
            self._publisher.publish(topic, value)
        except Unavailable:
            log.debug("Progress dropped", topic=topic)
        self._publisher.poll(0)

    async def wait_for_membership(self) -> None:
        """Wait until the assignment may be believed.

        A process that was stopped for longer than its session wakes with timers that are due and partitions that are
        somebody else's by now. It must begin nothing before its consumer has heard of that from the broker.
        """
        while time.monotonic() - self._membership_confirmed_at > self._membership_ttl_seconds:  # noqa: ASYNC110 - another thread polls
            await asyncio.sleep(MEMBERSHIP_CHECK_SECONDS)

    # --- inside

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
            self._loop.close()

    def _poll_publisher(self) -> None:
        try:
            self._publisher.poll(0)
        finally:
            self._polling = self._pending_deliveries > 0
            if self._polling:
                self._loop.call_later(ACKNOWLEDGEMENT_SECONDS, self._poll_publisher)

    def _start(self, records: list[Record], epochs: dict[int, int]) -> None:
        for record in records:
            epoch = (record.partition, epochs[record.partition])
            passage = RecordTask(record, self._context)
            turn = None
            if self._one_at_a_time:
                turn = _Sequence(self._last.get(epoch), self._loop.create_future())
                self._last[epoch] = turn.over
                if turn.before is not None:
                    passage.idle_until = float("inf")
            self._spawn(self._run(passage, epoch, turn), passage, epoch, turn)

    def _spawn(
        self, run: Coroutine[Any, Any, None], passage: RecordTask, epoch: tuple[int, int], turn: _Sequence | None
    ) -> None:
        task = self._loop.create_task(run)
        self._tasks.setdefault(epoch, {})[task] = passage
        task.add_done_callback(functools.partial(self._on_task_done, passage, epoch, turn))

    async def _run(self, passage: RecordTask, epoch: tuple[int, int], turn: _Sequence | None) -> None:
        if turn is not None and turn.before is not None:
            passage.idle_until = float("inf")
            await asyncio.wait([turn.before])
            passage.idle_until = None
        await passage.run()
        passage.finished = True
        self.finished.put(FinishedRecord(epoch[0], epoch[1], passage.record.offset))

    async def _run_again(
        self, passage: RecordTask, epoch: tuple[int, int], turn: _Sequence | None, seconds: float
    ) -> None:
        await passage.wait(seconds)
        await self._run(passage, epoch, turn)

    def _on_task_done(
        self, passage: RecordTask, epoch: tuple[int, int], turn: _Sequence | None, task: asyncio.Task[None]
    ) -> None:
        """A record's task is over, however it ended: the record is finished, abandoned, or run again."""
        passages = self._tasks.get(epoch, {})
        passages.pop(task, None)
        error = asyncio.CancelledError("its task was cancelled") if task.cancelled() else task.exception()
        if not passage.finished and not passage.abandoned:
            seconds = passage.record_rerun()
            self._spawn(self._run_again(passage, epoch, turn, seconds), passage, epoch, turn)
            passage.report_rerun(error or RuntimeError("its task returned early"), seconds)
            return
        if not passages:
            self._tasks.pop(epoch, None)
        if turn is not None:
            turn.over.set_result(None)
            if self._last.get(epoch) is turn.over:
                del self._last[epoch]

    def _run_probe(self, call: Callable[[], Awaitable[None]]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(Unavailable):
                await call()

        if self._probe is None or self._probe.done():
            self._probe = self._loop.create_task(quietly())

    def _cancel(self, files: set[tuple[int, int]]) -> None:
        for group in self._tasks.values():
            for task, passage in group.items():
                if passage.file_run in files and passage.cancel():
                    task.cancel()

    def _abandon(self, epochs: set[tuple[int, int]], idle_longer_than: float | None) -> None:
        latest = self._loop.time() + (idle_longer_than or 0)
        for epoch in epochs:
            for task, passage in self._tasks.get(epoch, {}).items():
                idle_until = passage.idle_until
                if idle_longer_than is None or (idle_until is not None and idle_until > latest):
                    passage.abandoned = True
                    task.cancel()
