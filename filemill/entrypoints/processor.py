"""Assembles a file processor. Imports no database driver, because a processor has no database credentials."""

import asyncio
import contextlib
import gc
import os
import random
from collections.abc import Callable

from filemill.adapters.kafka.client import KafkaPublisher
from filemill.adapters.kafka.record_source import KafkaRecordSource
from filemill.adapters.kafka.share_source import KafkaShareSource
from filemill.adapters.kafka.topic_reader import KafkaTopicReader
from filemill.adapters.s3.store import S3ObjectStore
from filemill.config.settings import Settings
from filemill.domain.origins import split_list
from filemill.domain.retry import RetryPolicy
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
from filemill_workers.file_processor.record_task import OutputTopics, ProcessingContext
from filemill_workers.file_processor.reporter import Reporter
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
    return HandlerSources(modules=tuple(split_list(settings.handlers)), commands=settings.handlers_commands)


def handler_pool(settings: Settings) -> ChildPool:
    """The processes that run handlers. None is started before the first job."""
    return ChildPool(
        PoolOptions(
            sources=handler_sources(settings),
            size=settings.processes or (os.cpu_count() or 1),
            max_jobs=settings.max_jobs_per_child,
            environment=tuple(split_list(settings.handlers_environment)),
        )
    )


class Processor:
    """A file processor: the consumer on the caller's thread, executor and command listener on threads of their own."""

    def __init__(
        self, settings: Settings, on_cycle: Callable[[], None] = lambda: None, store: ObjectStore | None = None
    ) -> None:
        """`on_cycle` is called in each cycle of the consumer's loop; `store` replaces S3 in measurements.

        Raises InvalidHandler if a handler cannot be used.
        """
        self._on_cycle = on_cycle
        self._settings = settings
        publisher = KafkaPublisher(settings, "processor")
        membership_ttl_seconds = settings.session_timeout_ms / 1000 / 2
        jitter = random.Random()
        self._reporter = Reporter(
            publisher,
            settings.topic_worker_events,
            settings.worker_id,
            settings.group_protocol,
            settings.longest_job_seconds,
        )
        bucket = S3ObjectStore(settings)
        self._store = store or bucket
        registry = load_handlers(handler_sources(settings))
        self._handlers = HandlerContext(Handlers(registry, handler_pool(settings)), self._store, bucket)
        self._reporter.longest_timeout = lambda: self._handlers.handlers.longest_timeout
        self._commands = CommandState(settings.worker_id)
        self._breakers = [CircuitBreaker(server, self._emit, jitter) for server in ("S3", "Kafka")]
        self._executor = Executor(
            publisher,
            lambda executor: self._context(settings, executor, jitter),
            one_at_a_time=settings.ordering == "partition",
            membership_ttl_seconds=membership_ttl_seconds,
            batching_seconds=result_batching_seconds(settings),
            on_close=self._handlers.handlers.close,
        )
        self._listener = CommandListener(
            lambda: KafkaTopicReader(settings, [settings.topic_worker_commands], "commands"),
            self._commands,
            self._executor.cancel,
            self._reporter,
        )
        self._consumer = self._new_consumer(settings, membership_ttl_seconds)
        self._publisher = publisher

    def stop(self) -> None:
        """Stop in order. For any thread."""
        self._consumer.stop()

    def run(self) -> None:
        """Process records until stopped. Raises Unavailable if the Kafka client cannot continue."""
        gc.set_threshold(GC_THRESHOLD_OBJECTS)
        self._listener.start()
        try:
            self._consume()
        finally:
            self._listener.close()
            self._executor.close()
            self._publisher.flush(FLUSH_SECONDS)

    def _new_consumer(self, settings: Settings, membership_ttl_seconds: float) -> FileProcessor | ShareProcessor:
        if settings.group_protocol == "share":
            return ShareProcessor(
                self._executor,
                ShareOptions(drain_seconds=settings.drain_seconds, membership_ttl_seconds=membership_ttl_seconds),
                reporter=self._reporter,
                backpressure_reason=self._backpressure_reason,
                probe=lambda: self._executor.run_probe(self._probe),
            )
        return FileProcessor(
            self._executor,
            ConsumerOptions(
                concurrency=settings.concurrency,
                partition_concurrency=settings.partition_concurrency or None,
                drain_seconds=settings.drain_seconds,
                max_poll_seconds=settings.max_poll_interval_ms / 1000,
                membership_ttl_seconds=membership_ttl_seconds,
            ),
            worker_id=settings.worker_id,
            reporter=self._reporter,
            backpressure_reason=self._backpressure_reason,
        )

    def _consume(self) -> None:
        topic = self._settings.topic_create
        if isinstance(self._consumer, ShareProcessor):
            self._consumer.run(lambda: KafkaShareSource(self._settings, topic))
        else:
            self._consumer.run(lambda listener: KafkaRecordSource(self._settings, topic, listener))

    def _context(self, settings: Settings, executor: Executor, jitter: random.Random) -> ProcessingContext:
        s3, kafka = self._breakers
        return ProcessingContext(
            worker_id=settings.worker_id,
            store=self._store,
            publish=executor.publish,
            publish_nowait=executor.publish_nowait,
            wait_for_membership=executor.wait_for_membership,
            upload_slots=asyncio.Semaphore(settings.store_concurrency),
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
            jitter=jitter,
            call_store=s3.call,
            call_broker=kafka.call,
            on_uploaded=executor.collect_uploads,
            is_cancelled=self._commands.is_cancelled,
            reporter=self._reporter,
            handlers=self._handlers,
        )

    async def _probe(self) -> None:
        """Send a request to S3 through its circuit breaker; any answer closes the breaker."""

        async def ask() -> None:
            with contextlib.suppress(NotFound):
                await self._store.get(PROBE_KEY)

        await self._breakers[0].call(ask)

    def _emit(self, kind: EventKind, cause: str) -> None:
        self._reporter.emit(kind, cause=cause)

    def _backpressure_reason(self) -> str | None:
        self._on_cycle()
        if self._commands.quiet:
            return QUIET
        return next((breaker.reason for breaker in self._breakers if breaker.reason), None)
