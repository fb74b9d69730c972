"""Wired once: which adapter stands behind which port, for each process."""

import asyncio
import random
import threading
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from filemill.adapters.kafka import KafkaPublisher
from filemill.adapters.kafka_admin import KafkaAdmin
from filemill.adapters.kafka_group import GroupMember
from filemill.adapters.kafka_reader import TopicReader
from filemill.adapters.postgres import create_engine
from filemill.adapters.postgres_lease import PostgresLease
from filemill.adapters.postgres_outbox import PostgresOutbox
from filemill.adapters.postgres_status import PostgresStatusStore
from filemill.adapters.s3 import S3ObjectStore, s3_client
from filemill.commands import Standing
from filemill.foreign import HashFiller
from filemill.processing.gate import Gate
from filemill.processing.listener import CommandListener
from filemill.processing.passage import Topics, Workplace
from filemill.processing.reporter import Reporter
from filemill.processing.workshop import Workshop
from filemill.retry import RetryPolicy
from filemill.settings import Settings
from filemill.telemetry import Kind
from workers.file_processor import QUIET, FileProcessor
from workers.group_monitor import GroupMonitor
from workers.outbox_relay import OutboxRelay
from workers.status_sync import StatusSync

# What a processor still has to say when it leaves.
FLUSH_SECONDS = 5.0

__all__ = ["Processor", "create_engine", "hash_filler", "monitor", "relay", "s3_client", "sync"]


def relay(settings: Settings, engine: sa.Engine) -> OutboxRelay:
    """An outbox relay, for a thread of its own. Its publisher is its own too."""
    lease = PostgresLease(engine, "relay", settings.worker_id, settings.lease_seconds)
    return OutboxRelay(
        PostgresOutbox(engine, lease),
        lease,
        KafkaPublisher(settings, "relay"),
        topic=settings.topic_create,
        batch=settings.relay_batch,
        lease_seconds=settings.lease_seconds,
    )


def sync(settings: Settings, engine: sa.Engine) -> StatusSync:
    """A status sync."""
    lease = PostgresLease(engine, "sync", settings.worker_id, settings.lease_seconds)
    topics = [settings.topic_created, settings.topic_progress, settings.topic_worker_events]
    return StatusSync(
        PostgresStatusStore(engine, lease),
        lease,
        lambda: TopicReader(settings, topics, "status-sync"),
        topic_created=settings.topic_created,
        topic_worker_events=settings.topic_worker_events,
        batch=settings.sync_batch,
        lease_seconds=settings.lease_seconds,
    )


def hash_filler(settings: Settings, engine: sa.Engine) -> HashFiller:
    """What completes the rows of foreign file services; it runs beside the sync."""
    return HashFiller(engine, s3_client(settings), settings.s3_bucket)


def monitor(settings: Settings, engine: sa.Engine) -> GroupMonitor:
    """A group monitor."""
    # A sampler that is late by an interval is not gone: it gets longer than one round and its patience with Kafka.
    seconds = settings.lease_seconds + settings.monitor_interval_seconds + settings.server_timeout_seconds
    return GroupMonitor(
        engine,
        KafkaAdmin(settings),
        PostgresLease(engine, "monitor", settings.worker_id, seconds),
        group=settings.kafka_group,
        topic=settings.topic_create,
        interval_seconds=settings.monitor_interval_seconds,
        retention=timedelta(hours=settings.monitor_retention_hours),
    )


class Processor:
    """A file processor, put together: the loop on the caller's thread, workshop and listener beside it. No database."""

    def __init__(self, settings: Settings) -> None:
        publisher = KafkaPublisher(settings, "processor")
        jitter = random.Random()
        self._reporter = Reporter(
            publisher,
            settings.topic_worker_events,
            settings.worker_id,
            settings.group_protocol,
            settings.processing_seconds,
        )
        self._standing = Standing(settings.worker_id, datetime.now(UTC))
        self._gates = [Gate(server, self._tell, jitter) for server in ("S3", "Kafka")]
        self._workshop = Workshop(
            publisher,
            lambda workshop: self._workplace(settings, workshop, jitter),
            one_at_a_time=settings.ordering == "partition",
            trusted_seconds=settings.session_timeout_ms / 1000 / 2,
        )
        self._listener = CommandListener(
            lambda: TopicReader(settings, [settings.topic_worker_commands], "commands"),
            self._standing,
            self._workshop.cancel,
            self._reporter,
        )
        self._loop = FileProcessor(
            self._workshop,
            worker_id=settings.worker_id,
            concurrency=settings.concurrency,
            drain_seconds=settings.drain_seconds,
            reporter=self._reporter,
            hold=self._hold,
            max_poll_seconds=settings.max_poll_interval_ms / 1000,
        )
        self._member = GroupMember(settings, settings.topic_create, self._loop)
        self._publisher = publisher

    def stop(self) -> None:
        """Leave in order; from any thread."""
        self._loop.stop()

    def run(self) -> None:
        """Process until stopped. Raises retry.Unavailable where the Kafka client gave up for good."""
        self._listener.start()
        try:
            self._loop.run(self._member)
        finally:
            self._listener.close()
            self._workshop.shut()
            self._publisher.flush(FLUSH_SECONDS)

    def _workplace(self, settings: Settings, workshop: Workshop, jitter: random.Random) -> Workplace:
        to_s3, to_kafka = self._gates
        return Workplace(
            worker_id=settings.worker_id,
            store=S3ObjectStore(settings),
            publish=workshop.publish,
            mention=workshop.mention,
            awake=workshop.awake,
            uploads=asyncio.Semaphore(settings.store_concurrency),
            topics=Topics(
                settings.topic_created,
                settings.topic_progress,
                settings.topic_dead_letters,
                settings.topic_worker_events,
            ),
            policy=RetryPolicy(max_attempts=settings.max_attempts),
            processing_seconds=settings.processing_seconds,
            processing_steps=settings.processing_steps,
            jitter=jitter,
            to_store=to_s3.through,
            to_broker=to_kafka.through,
            cancelled=self._standing.cancelled,
            report=self._reporter,
        )

    def _tell(self, kind: Kind, cause: str) -> None:
        self._reporter.emit(kind, cause=cause)

    def _hold(self) -> str | None:
        if self._standing.quiet:
            return QUIET
        return next((gate.reason for gate in self._gates if gate.reason), None)


def run_beside(target: "HashFiller", stop: threading.Event) -> threading.Thread:
    """Run something on a daemon thread."""
    thread = threading.Thread(target=target.run, args=(stop,), name=type(target).__name__, daemon=True)
    thread.start()
    return thread
