"""Wired once: which adapter stands behind which port, for each process that has a database.

A file processor has none: `filemill.entrypoints.processor` puts it together.
"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import sqlalchemy as sa
import uvloop

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.client import KafkaPublisher
from filemill.adapters.kafka.reader import KafkaTopicReader
from filemill.adapters.kafka.topics import TopicIdentities
from filemill.adapters.postgres.connection import create_engine
from filemill.adapters.postgres.lease import PostgresLease
from filemill.adapters.postgres.outbox import PostgresOutbox
from filemill.adapters.postgres.status import PostgresStatusStore
from filemill.adapters.s3.admin import s3_client
from filemill.adapters.s3.store import S3ObjectStore
from filemill.config.settings import Settings
from filemill.services.foreign_results import HashFiller
from filemill.verification.check import verify as check
from filemill.verification.report import Report
from filemill_workers.group_monitor import GroupMonitor
from filemill_workers.outbox_relay import OutboxRelay
from filemill_workers.status_sync import StatusSync

__all__ = ["create_engine", "hash_filler", "monitor", "relay", "s3_client", "sync", "verify"]


def relay(settings: Settings, engine: sa.Engine) -> OutboxRelay:
    """An outbox relay, for a thread of its own. Its publisher is its own too."""
    lease = PostgresLease(engine, "relay", settings.worker_id, settings.lease_seconds)
    topic, identities = settings.topic_create, TopicIdentities(settings, "relay")
    return OutboxRelay(
        PostgresOutbox(engine, lease),
        lease,
        KafkaPublisher(settings, "relay"),
        topic=topic,
        identity=lambda: identities([topic]).get(topic),
        batch=settings.relay_batch,
        lease_seconds=settings.lease_seconds,
        beside=ThreadPoolExecutor(1, thread_name_prefix="settle").submit,
    )


def sync(settings: Settings, engine: sa.Engine) -> StatusSync:
    """A status sync."""
    lease = PostgresLease(engine, "sync", settings.worker_id, settings.lease_seconds)
    topics = [settings.topic_created, settings.topic_progress, settings.topic_worker_events]
    return StatusSync(
        PostgresStatusStore(engine, lease, settings.topic_worker_events),
        lease,
        lambda: KafkaTopicReader(settings, topics, "status-sync"),
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
        settings=settings,
        interval_seconds=settings.monitor_interval_seconds,
        retention=timedelta(hours=settings.monitor_retention_hours),
    )


def verify(settings: Settings, engine: sa.Engine) -> Report:
    """All checks of `filemill verify`, to their end. Raises Unavailable."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(check(settings, engine, KafkaAdmin(settings), S3ObjectStore(settings)))


def run_beside(target: "HashFiller", stop: threading.Event) -> threading.Thread:
    """Run something on a daemon thread."""
    thread = threading.Thread(target=target.run, args=(stop,), name=type(target).__name__, daemon=True)
    thread.start()
    return thread
