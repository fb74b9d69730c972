"""Wired once: which adapter stands behind which port, for each process."""

import asyncio
import random
import threading
from datetime import timedelta

import sqlalchemy as sa

from filemill.adapters.kafka import KafkaPublisher
from filemill.adapters.kafka_admin import KafkaAdmin
from filemill.adapters.kafka_group import GroupMember, TopicReader
from filemill.adapters.postgres import create_engine
from filemill.adapters.postgres_lease import PostgresLease
from filemill.adapters.postgres_outbox import PostgresOutbox
from filemill.adapters.postgres_status import PostgresStatusStore
from filemill.adapters.s3 import S3ObjectStore, s3_client
from filemill.foreign import HashFiller
from filemill.ports import RecordSource
from filemill.processing.passage import Topics, Workplace
from filemill.processing.workshop import Workshop
from filemill.retry import RetryPolicy
from filemill.settings import Settings
from workers.file_processor import FileProcessor
from workers.group_monitor import GroupMonitor
from workers.outbox_relay import OutboxRelay
from workers.status_sync import StatusSync

__all__ = ["create_engine", "hash_filler", "monitor", "processor", "relay", "s3_client", "sync"]


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
    topics = [settings.topic_created, settings.topic_progress]
    return StatusSync(
        PostgresStatusStore(engine, lease),
        lease,
        lambda: TopicReader(settings, topics, "status-sync"),
        topic_created=settings.topic_created,
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


def processor(settings: Settings) -> tuple[FileProcessor, RecordSource, Workshop]:
    """A file processor: the loop, the group member that it reads, and the workshop to shut after it. No database."""
    store = S3ObjectStore(settings)
    topics = Topics(settings.topic_created, settings.topic_progress, settings.topic_dead_letters)

    def workplace(workshop: Workshop) -> Workplace:
        return Workplace(
            worker_id=settings.worker_id,
            store=store,
            publish=workshop.publish,
            mention=workshop.mention,
            awake=workshop.awake,
            uploads=asyncio.Semaphore(settings.store_concurrency),
            topics=topics,
            policy=RetryPolicy(max_attempts=settings.max_attempts),
            processing_seconds=settings.processing_seconds,
            processing_steps=settings.processing_steps,
            jitter=random.Random(),
        )

    workshop = Workshop(
        KafkaPublisher(settings, "processor"),
        workplace,
        one_at_a_time=settings.ordering == "partition",
        trusted_seconds=settings.session_timeout_ms / 1000 / 2,
    )
    loop = FileProcessor(
        workshop,
        worker_id=settings.worker_id,
        concurrency=settings.concurrency,
        drain_seconds=settings.drain_seconds,
    )
    return loop, GroupMember(settings, settings.topic_create, loop), workshop


def run_beside(target: "HashFiller", stop: threading.Event) -> threading.Thread:
    """Run something on a daemon thread."""
    thread = threading.Thread(target=target.run, args=(stop,), name=type(target).__name__, daemon=True)
    thread.start()
    return thread
