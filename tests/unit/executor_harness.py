"""An executor on in-memory adapters: records in, files and events out, without servers."""

import asyncio
import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from filemill.adapters.memory.broker import MemoryBroker
from filemill.adapters.memory.object_store import MemoryObjectStore
from filemill.adapters.memory.publisher import MemoryPublisher
from filemill.domain.messages import RUN_HEADER, TRACEPARENT_HEADER, Headers
from filemill.domain.records import Record
from filemill.domain.retry import RetryPolicy
from filemill.domain.worker_events import EventKind
from filemill.errors import Unavailable
from filemill.ports import Clock, PutMode
from filemill_workers.file_processor.circuit import CircuitBreaker
from filemill_workers.file_processor.executor import Executor, FinishedRecord
from filemill_workers.file_processor.handler_task import HandlerContext
from filemill_workers.file_processor.handlers import Handlers
from filemill_workers.file_processor.record_task import OutputTopics, ProcessingContext
from filemill_workers.file_processor.reporter import Reporter

CREATE = "file.create"
TOPICS = OutputTopics("file.created", "file.progress", "file.create.dlq", "worker.events")
DEADLINE_SECONDS = 20.0
# Short delays: an outage of some milliseconds gets many retries.
POLICY = RetryPolicy(max_attempts=3, base_seconds=0.001, cap_seconds=0.004)
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


def request(file_id: int, **fields: object) -> bytes:
    """A `file.create` with the four fields of the reference design."""
    message = {
        "fileId": file_id,
        "title": f"File {file_id}",
        "description": "d",
        "timestamp": "2026-01-04T12:00:00.000Z",
    }
    return json.dumps({**message, **fields}).encode()


def record(
    offset: int, *, partition: int = 0, file_id: int | None = None, value: bytes | None = None, run: bytes | None = b"1"
) -> Record:
    """A record of `file.create`; by default of the file `offset + 1`."""
    headers: Headers = [(TRACEPARENT_HEADER, TRACE.encode())]
    if run is not None:
        headers.append((RUN_HEADER, run))
    body = request(file_id or offset + 1) if value is None else value
    return Record(CREATE, partition, offset, body, headers, 0)


def wait_until(
    condition: Callable[[], object],
    what: str = "the condition did not become true",
    seconds: float = DEADLINE_SECONDS,
) -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


class ControlledStore(MemoryObjectStore):
    """A bucket whose PUTs fail or block, by key, as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[str, BaseException] = {}
        self.blocked: set[str] = set()
        self.attempts: list[str] = []
        self.losing_responses = False  # the next PUT succeeds, and its response is lost
        self.deleting = False  # each object is deleted just before it is read

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode = "overwrite") -> None:
        self.attempts.append(key)
        while key in self.blocked:  # noqa: ASYNC110 - the test's thread unblocks it
            await asyncio.sleep(0.001)
        if key in self.failing:
            raise self.failing[key]
        await super().put(key, body, metadata, mode)
        if self.losing_responses:
            self.losing_responses = False
            raise Unavailable("no answer")

    async def get(self, key: str) -> bytes:
        if self.deleting:
            self.objects.pop(key, None)
        return await super().get(key)


class CountingPublisher(MemoryPublisher):
    """Counts the records that the executor passes to it."""

    published = 0

    def publish(self, *arguments: Any, **options: Any) -> None:
        self.published += 1
        super().publish(*arguments, **options)


class ExecutorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the executor and of the processing."""

    executor: Callable[..., Executor] = Executor
    broker: MemoryBroker | None = None
    store: ControlledStore | None = None
    clock: Clock = time.monotonic
    one_at_a_time: bool = False
    membership_ttl_seconds: float = 1e9
    batching_seconds: float = 0.0
    upload_slots: int = 64
    breakers: bool = False
    retry_policy: RetryPolicy = POLICY
    processing_seconds: float = 0.0
    processing_steps: int = 6
    long_job_every: int = 0
    long_job_seconds: float = 0.0
    progress_interval_seconds: float = 1.0
    reporter: Reporter | None = None
    handlers: Handlers | None = None


class ExecutorHarness:
    """An executor, its in-memory adapters, and the results of the records."""

    def __init__(self, options: ExecutorOptions) -> None:
        self.options = options
        self.store = options.store or ControlledStore()
        self.broker = options.broker or MemoryBroker(
            dict.fromkeys([CREATE, TOPICS.created, TOPICS.progress, TOPICS.dead_letters, TOPICS.worker_events], 3)
        )
        self.publisher = CountingPublisher(self.broker)
        self.cancelled: set[tuple[int, int | None]] = set()
        self.breaker_events: list[EventKind] = []
        self.jitter = random.Random(1)
        self.breakers = {
            name: CircuitBreaker(name, lambda kind, _: self.breaker_events.append(kind), self.jitter)
            for name in ("S3", "Kafka")
        }
        self.context: ProcessingContext
        self.executor = self.new_executor(on_close=options.handlers.close if options.handlers else None)

    def new_executor(self, **arguments: Any) -> Executor:
        options = self.options
        return options.executor(
            self.publisher,
            self._context,
            one_at_a_time=options.one_at_a_time,
            membership_ttl_seconds=options.membership_ttl_seconds,
            batching_seconds=options.batching_seconds,
            clock=options.clock,
            **arguments,
        )

    def _context(self, executor: Executor) -> ProcessingContext:
        options = self.options
        calls: dict[str, Any] = {"call_store": self.breakers["S3"].call, "call_broker": self.breakers["Kafka"].call}
        self.context = ProcessingContext(
            worker_id="worker-1",
            store=self.store,
            publish=executor.publish,
            publish_nowait=executor.publish_nowait,
            wait_for_membership=executor.wait_for_membership,
            upload_slots=asyncio.Semaphore(options.upload_slots),
            topics=TOPICS,
            retry_policy=options.retry_policy,
            processing_seconds=options.processing_seconds,
            processing_steps=options.processing_steps,
            long_job_every=options.long_job_every,
            long_job_seconds=options.long_job_seconds,
            jitter=self.jitter,
            on_uploaded=executor.collect_uploads,
            is_cancelled=lambda file_id, run: (file_id, run) in self.cancelled,
            reporter=options.reporter,
            progress_interval_seconds=options.progress_interval_seconds,
            clock=options.clock,
            handlers=HandlerContext(options.handlers, self.store, self.store) if options.handlers else None,
            **(calls if options.breakers else {}),
        )
        return self.context

    def start(self, *records: Record, epoch: int = 1) -> None:
        self.executor.start(records, {each.partition: epoch for each in records})

    def finished(self, count: int, seconds: float = DEADLINE_SECONDS) -> list[FinishedRecord]:
        """The next finished records, in the order in which they finished."""
        deadline = time.monotonic() + seconds
        return [self.executor.finished.get(timeout=max(0.001, deadline - time.monotonic())) for _ in range(count)]

    def nothing_finished(self) -> bool:
        try:
            self.executor.finished.get_nowait()
        except queue.Empty:
            return True
        return False

    def wait_until_idle(self) -> None:
        """Wait until a record only waits, as in its simulated work."""
        wait_until(lambda: self.executor.status().idle)

    def wait_for_pending_deliveries(self, count: int) -> None:
        """Wait until this many publications have no delivery report yet."""
        wait_until(lambda: self.executor.status().pending_deliveries == count)

    def events(self, topic: str = TOPICS.created) -> list[dict[str, Any]]:
        return [msgspec.json.decode(each.value or b"null") for each in self.broker.records(topic)]

    def results(self) -> dict[int, str]:
        return {event["fileId"]: event["status"] for event in self.events()}


@contextmanager
def running_executor(**options: Any) -> Iterator[ExecutorHarness]:
    """An executor that is closed at the end. `options` are those of ExecutorOptions."""
    harness = ExecutorHarness(ExecutorOptions(**options))
    try:
        yield harness
    finally:
        harness.executor.close()


def block_loop(harness: ExecutorHarness) -> threading.Event:
    """Block the event loop until the returned event is set."""
    blocked, gate = threading.Event(), threading.Event()

    async def block() -> None:
        blocked.set()
        gate.wait(DEADLINE_SECONDS)

    harness.executor.run_probe(block)
    assert blocked.wait(DEADLINE_SECONDS)
    return gate
