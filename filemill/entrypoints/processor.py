"""A file processor, put together. It imports no database driver: it holds no credentials for one."""

import asyncio
import contextlib
import gc
import random
from collections.abc import Callable

from filemill.adapters.kafka.client import LINGER_MILLISECONDS, KafkaPublisher
from filemill.adapters.kafka.record_source import KafkaRecordSource
from filemill.adapters.kafka.share_source import KafkaShareSource
from filemill.adapters.kafka.topic_reader import KafkaTopicReader
from filemill.adapters.s3.store import S3ObjectStore
from filemill.config.settings import Settings
from filemill.domain.retry import RetryPolicy
from filemill.domain.worker_commands import CommandState
from filemill.domain.worker_events import EventKind
from filemill.errors import NotFound
from filemill.ports import ObjectStore
from filemill_workers.file_processor.circuit import CircuitBreaker
from filemill_workers.file_processor.command_listener import CommandListener
from filemill_workers.file_processor.consumer import FileProcessor
from filemill_workers.file_processor.executor import Executor
from filemill_workers.file_processor.membership import QUIET
from filemill_workers.file_processor.record_task import OutputTopics, ProcessingContext
from filemill_workers.file_processor.reporter import Reporter
from filemill_workers.file_processor.share_consumer import ShareProcessor

# What a processor still has to say when it leaves.
FLUSH_SECONDS = 5.0
# Python looks for cycles at each 700 objects that are new; a processor makes thousands in a moment, nearly all without
# any, and the search took a fifth of its CPU.
GC_THRESHOLD_OBJECTS = 50_000
# Results come one by one, and each request costs the broker more than the record in it: at hundreds of files a second
# those of 25 ms travel together, for half of its CPU at 5 ms (docs/performance.md).
RESULT_LINGER_MILLISECONDS = 25
# Where fewer may be in progress, nothing comes that a result could travel with: its partition waits for it.
MIN_RECORDS_TO_LINGER = 100
# No file has this name.
PROBE_KEY = "filemill-probe"


def linger_milliseconds(settings: Settings) -> int:
    """How long a result waits for others, to travel with them.

    Little where few records may be in progress, and in a share group, whose next batch comes when this one is done.
    """
    of_a_partition = 1 if settings.ordering == "partition" else settings.partition_concurrency or settings.concurrency
    most = min(settings.concurrency, of_a_partition * settings.topic_partitions)
    few = most < MIN_RECORDS_TO_LINGER or settings.group_protocol == "share"
    return LINGER_MILLISECONDS if few else RESULT_LINGER_MILLISECONDS


class Processor:
    """The consumer's loop on the caller's thread, workshop and listener beside it."""

    def __init__(
        self, settings: Settings, on_cycle: Callable[[], None] = lambda: None, store: ObjectStore | None = None
    ) -> None:
        """`on_cycle` is called in each cycle of the consumer's loop; `store` replaces S3 in measurements."""
        self._on_cycle = on_cycle
        self._settings = settings
        publisher = KafkaPublisher(settings, "processor", linger_milliseconds=linger_milliseconds(settings))
        trusted_seconds = settings.session_timeout_ms / 1000 / 2
        jitter = random.Random()
        self._reporter = Reporter(
            publisher,
            settings.topic_worker_events,
            settings.worker_id,
            settings.group_protocol,
            settings.longest_job_seconds,
        )
        self._store = store or S3ObjectStore(settings)
        self._commands = CommandState(settings.worker_id)
        self._breakers = [CircuitBreaker(server, self._emit, jitter) for server in ("S3", "Kafka")]
        self._executor = Executor(
            publisher,
            lambda workshop: self._context(settings, workshop, jitter),
            one_at_a_time=settings.ordering == "partition",
            membership_ttl_seconds=trusted_seconds,
        )
        self._listener = CommandListener(
            lambda: KafkaTopicReader(settings, [settings.topic_worker_commands], "commands"),
            self._commands,
            self._executor.cancel,
            self._reporter,
        )
        self._loop = self._new_loop(settings, trusted_seconds)
        self._publisher = publisher

    def stop(self) -> None:
        """Leave in order; from any thread."""
        self._loop.stop()

    def run(self) -> None:
        """Process until stopped. Raises Unavailable where the Kafka client gave up for good."""
        gc.set_threshold(GC_THRESHOLD_OBJECTS)
        self._listener.start()
        try:
            self._consume()
        finally:
            self._listener.close()
            self._executor.close()
            self._publisher.flush(FLUSH_SECONDS)

    def _new_loop(self, settings: Settings, trusted_seconds: float) -> FileProcessor | ShareProcessor:
        if settings.group_protocol == "share":
            return ShareProcessor(
                self._executor,
                drain_seconds=settings.drain_seconds,
                reporter=self._reporter,
                backpressure_reason=self._backpressure_reason,
                probe=lambda: self._executor.run_probe(self._probe),
                membership_ttl_seconds=trusted_seconds,
            )
        return FileProcessor(
            self._executor,
            worker_id=settings.worker_id,
            concurrency=settings.concurrency,
            partition_concurrency=settings.partition_concurrency or None,
            drain_seconds=settings.drain_seconds,
            reporter=self._reporter,
            backpressure_reason=self._backpressure_reason,
            max_poll_seconds=settings.max_poll_interval_ms / 1000,
            membership_ttl_seconds=trusted_seconds,
        )

    def _consume(self) -> None:
        topic = self._settings.topic_create
        if isinstance(self._loop, ShareProcessor):
            self._loop.run(lambda: KafkaShareSource(self._settings, topic))
        else:
            self._loop.run(lambda listener: KafkaRecordSource(self._settings, topic, listener))

    def _context(self, settings: Settings, workshop: Executor, jitter: random.Random) -> ProcessingContext:
        to_s3, to_kafka = self._breakers
        return ProcessingContext(
            worker_id=settings.worker_id,
            store=self._store,
            publish=workshop.publish,
            publish_nowait=workshop.publish_nowait,
            wait_for_membership=workshop.wait_for_membership,
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
            call_store=to_s3.call,
            call_broker=to_kafka.call,
            is_cancelled=self._commands.is_cancelled,
            reporter=self._reporter,
        )

    async def _probe(self) -> None:
        """Ask S3 for anything at all, through its gate: an answer closes the breaker."""

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
        return next((gate.reason for gate in self._breakers if gate.reason), None)
