"""Assembles a file processor. Imports no database driver, because a processor has no database credentials."""

import asyncio
import contextlib
import functools
import gc
import os
import random
import threading
from collections.abc import Callable, Sequence

import msgspec

from filemill.adapters.kafka.client import KafkaPublisher
from filemill.adapters.kafka.record_source import KafkaRecordSource
from filemill.adapters.kafka.share_source import KafkaShareSource
from filemill.adapters.kafka.topic_reader import KafkaTopicReader
from filemill.adapters.s3.store import S3ObjectStore
from filemill.config.settings import Settings
from filemill.domain.handlers import TEXT_SPEC
from filemill.domain.origins import split_list
from filemill.domain.queues import DEFAULT_QUEUE, Queue
from filemill.domain.retry import RetryPolicy
from filemill.domain.signatures import ResultSigner
from filemill.domain.worker_commands import CommandState
from filemill.domain.worker_events import EventKind
from filemill.errors import NotFound
from filemill.handlers.pool import ChildPool, PoolOptions
from filemill.handlers.registry import HandlerSources, load_handlers
from filemill.ports import ObjectStore
from filemill_workers.file_processor.circuit import CircuitBreaker
from filemill_workers.file_processor.command_listener import CommandListener
from filemill_workers.file_processor.consumer import ConsumerOptions, FileProcessor
from filemill_workers.file_processor.executor import Executor
from filemill_workers.file_processor.handler_task import HandlerContext
from filemill_workers.file_processor.handlers import Handlers
from filemill_workers.file_processor.membership import QUIET
from filemill_workers.file_processor.places import Places, ProcessPlaces
from filemill_workers.file_processor.record_task import OutputTopics, ProcessingContext
from filemill_workers.file_processor.reporter import ConsumerReporter, QueueReporters, Reporter
from filemill_workers.file_processor.share_consumer import ShareOptions, ShareProcessor

# How long a processor that stops waits for its last publications.
FLUSH_SECONDS = 5.0
# Python searches for reference cycles after each 700 new objects. A processor creates thousands at a time, nearly all
# without cycles, and the search took a fifth of its CPU.
GC_THRESHOLD_OBJECTS = 50_000
# Results finish one by one, and a request costs the broker more than its records. At hundreds of files a second,
# batches of 25 ms (these and the producer's `linger.ms`) cost half of the broker's CPU that batches of 5 ms cost
# (docs/performance-log.md).
RESULT_BATCHING_SECONDS = 0.02
# With fewer records in progress there is nothing to batch a result with: its partition waits for it.
MIN_RECORDS_TO_BATCH = 100
# No file has this key.
PROBE_KEY = "filemill-probe"


def result_batching_seconds(settings: Settings) -> float:
    """How long results are collected before they are passed to the producer.

    0 if few records may be in progress, and in a share group, which reads the next batch after the last one.
    """
    of_a_partition = 1 if settings.ordering == "partition" else settings.partition_concurrency or settings.concurrency
    most = min(settings.concurrency, of_a_partition * settings.topic_partitions)
    few = most < MIN_RECORDS_TO_BATCH or settings.group_protocol == "share"
    return 0.0 if few else RESULT_BATCHING_SECONDS


def handler_sources(settings: Settings) -> HandlerSources:
    """Where this process looks for handlers."""
    return HandlerSources(
        modules=tuple(split_list(settings.handlers)),
        commands=settings.handlers_commands,
        templates=str(settings.handlers_templates.absolute()) if settings.handlers_templates else "",
    )


def handler_pool(settings: Settings) -> ChildPool:
    """The processes that run handlers. None is started before the first job."""
    return ChildPool(
        PoolOptions(
            sources=handler_sources(settings),
            size=_processes(settings) + sum(queue.reserved for queue in settings.served_queues.values()),
            max_jobs=settings.max_jobs_per_child,
            environment=tuple(split_list(settings.handlers_environment)),
        )
    )


def _processes(settings: Settings) -> int:
    """The processes that all queues share. Those on reserved places come in addition."""
    return settings.processes or (os.cpu_count() or 1)


class _Consumer(msgspec.Struct, frozen=True):
    """The consumer of one queue, its executor, and how it joins its group."""

    queue: Queue
    executor: Executor
    processor: FileProcessor | ShareProcessor
    join: Callable[[], None]


class Processor:
    """A file processor: a consumer for each queue that it serves. The first runs on the caller's thread.

    The other consumers have a thread each. The executors of all queues share a thread, and the queues share the
    processor's places. The command listener has a thread of its own.
    """

    def __init__(
        self,
        settings: Settings,
        on_cycle: Callable[[], None] = lambda: None,
        store: ObjectStore | None = None,
    ) -> None:
        """`on_cycle` is called in each cycle of the consumers' loops; `store` replaces S3 in measurements.

        Raises InvalidHandler if a handler cannot be used.
        """
        self._settings = settings
        queues = list(settings.served_queues.values())
        registry = load_handlers(handler_sources(settings))
        self._on_cycle = _CommonCycle(on_cycle, len(queues))
        self._publisher = KafkaPublisher(settings, "processor")
        self._membership_ttl_seconds = settings.session_timeout_ms / 1000 / 2
        self._jitter = random.Random()
        self._reporter = Reporter(
            self._publisher,
            settings.topic_worker_events,
            settings.worker_id,
            settings.group_protocol,
            settings.longest_job_seconds,
            [TEXT_SPEC, *(handler.spec() for handler in registry)],
        )
        bucket = S3ObjectStore(settings)
        self._store = store or bucket
        process_places = ProcessPlaces(_processes(settings), queues)
        self._handlers = HandlerContext(Handlers(registry, handler_pool(settings), process_places), self._store, bucket)
        self._reporter.longest_timeout = lambda: self._handlers.handlers.longest_timeout
        self._upload_slots = asyncio.Semaphore(settings.store_concurrency)
        self._commands = CommandState(settings.worker_id)
        self._signer = ResultSigner(settings.result_key.get_secret_value())
        self._breakers = [CircuitBreaker(server, self._emit, self._jitter) for server in ("S3", "Kafka")]
        self._places = Places(settings.concurrency, queues)
        alone = [queue.name for queue in queues] == [DEFAULT_QUEUE]
        reporters = None if alone else QueueReporters(self._reporter, [queue.name for queue in queues])
        self._consumers: list[_Consumer] = []
        for queue in queues:
            reporter = self._reporter if reporters is None else reporters.of(queue.name)
            self._consumers.append(self._new_consumer(queue, reporter))
        self._listener = CommandListener(
            lambda: KafkaTopicReader(settings, [settings.topic_worker_commands], "commands"),
            self._commands,
            self._cancel,
            self._reporter,
        )
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Stop in order. For any thread."""
        for consumer in self._consumers:
            consumer.processor.stop()
        self._listener.ready.set()  # do not wait for Kafka any longer

    def run(self) -> None:
        """Process records until stopped. Raises Unavailable if the Kafka client cannot continue."""
        gc.set_threshold(GC_THRESHOLD_OBJECTS)
        self._listener.start()
        try:
            self._listener.ready.wait(self._settings.server_timeout_seconds)  # without Kafka, the consumers wait for it
            self._consume()
        finally:
            self._listener.close()
            for consumer in reversed(self._consumers):  # the first one's executor owns the thread
                consumer.executor.close()
            self._publisher.flush(FLUSH_SECONDS)

    def _new_consumer(self, queue: Queue, reporter: ConsumerReporter) -> _Consumer:
        settings = self._settings.of_queue(queue.name)
        executor = Executor(
            self._publisher,
            lambda executor: self._context(queue, executor),
            one_at_a_time=settings.ordering == "partition",
            membership_ttl_seconds=self._membership_ttl_seconds,
            batching_seconds=result_batching_seconds(settings),
            host=self._consumers[0].executor if self._consumers else None,
            on_close=None if self._consumers else self._handlers.handlers.close,
        )
        backpressure_reason = functools.partial(self._backpressure_reason, queue.name)
        if settings.group_protocol == "share":
            sharer = ShareProcessor(
                executor,
                ShareOptions(drain_seconds=settings.drain_seconds, membership_ttl_seconds=self._membership_ttl_seconds),
                reporter=reporter,
                backpressure_reason=backpressure_reason,
                probe=lambda: executor.run_probe(self._probe),
            )
            join = functools.partial(sharer.run, lambda: KafkaShareSource(settings, queue.topic))
            return _Consumer(queue, executor, sharer, join)
        processor = FileProcessor(
            executor,
            ConsumerOptions(
                concurrency=settings.concurrency,
                partition_concurrency=settings.partition_concurrency or None,
                drain_seconds=settings.drain_seconds,
                max_poll_seconds=settings.max_poll_interval_ms / 1000,
                membership_ttl_seconds=self._membership_ttl_seconds,
            ),
            worker_id=settings.worker_id,
            reporter=reporter,
            backpressure_reason=backpressure_reason,
            claim_places=functools.partial(self._places.claim, queue.name),
            queue=queue.name,
        )
        join = functools.partial(processor.run, lambda listener: KafkaRecordSource(settings, queue.topic, listener))
        return _Consumer(queue, executor, processor, join)

    def _consume(self) -> None:
        first, *others = self._consumers
        threads = [
            threading.Thread(target=self._run_consumer, args=(consumer,), name=f"consumer {consumer.queue.name}")
            for consumer in others
        ]
        for thread in threads:
            thread.start()
        self._run_consumer(first)
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _run_consumer(self, consumer: _Consumer) -> None:
        """Run a consumer. If it cannot continue, the others stop in order, and `run` raises its error."""
        try:
            consumer.join()
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            self._failure = self._failure or error
            self.stop()

    def _cancel(self, files: Sequence[tuple[int, int]]) -> None:
        for consumer in self._consumers:
            consumer.executor.cancel(files)

    def _context(self, queue: Queue, executor: Executor) -> ProcessingContext:
        settings = self._settings
        s3, kafka = self._breakers
        return ProcessingContext(
            worker_id=settings.worker_id,
            store=self._store,
            publish=executor.publish,
            publish_nowait=executor.publish_nowait,
            wait_for_membership=executor.wait_for_membership,
            upload_slots=self._upload_slots,
            topics=OutputTopics(
                settings.topic_created,
                settings.topic_progress,
                settings.topic_dead_letters,
                settings.topic_worker_events,
            ),
            retry_policy=RetryPolicy(max_attempts=settings.max_attempts),
            processing_seconds=settings.processing_seconds,
            processing_steps=settings.processing_steps,
            long_job_every=settings.long_job_every,
            long_job_seconds=settings.long_job_seconds,
            jitter=self._jitter,
            call_store=s3.call,
            call_broker=kafka.call,
            on_uploaded=executor.collect_uploads,
            is_cancelled=self._commands.is_cancelled,
            reporter=self._reporter,
            handlers=msgspec.structs.replace(self._handlers, queue=queue.name),
            queue=queue.name,
            signer=self._signer,
        )

    async def _probe(self) -> None:
        """Send a request to S3 through its circuit breaker; any answer closes the breaker."""

        async def ask() -> None:
            with contextlib.suppress(NotFound):
                await self._store.get(PROBE_KEY)

        await self._breakers[0].call(ask)

    def _emit(self, kind: EventKind, cause: str) -> None:
        self._reporter.emit(kind, cause=cause)

    def _backpressure_reason(self, queue: str) -> str | None:
        self._on_cycle.note(queue)
        if self._commands.quiet:
            return QUIET
        return next((breaker.reason for breaker in self._breakers if breaker.reason), None)


class _CommonCycle:
    """Calls `on_cycle` when all consumers have begun a cycle since the last call: one that hangs is not hidden."""

    def __init__(self, on_cycle: Callable[[], None], consumers: int) -> None:
        self._on_cycle = on_cycle
        self._consumers = consumers
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def note(self, queue: str) -> None:
        """The consumer of a queue has begun a cycle. Any thread."""
        if self._consumers > 1:
            with self._lock:
                self._seen.add(queue)
                if len(self._seen) < self._consumers:
                    return
                self._seen.clear()
        self._on_cycle()
