"""Wiring: which adapter stands behind which port, for each process that has a database. Adapters are built here only.

A file processor has no database: `filemill.entrypoints.processor` wires it.
"""

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
import uvloop

from filemill.adapters.kafka.access import KafkaAccess
from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.client import KafkaPublisher
from filemill.adapters.kafka.topic_reader import KafkaTopicReader
from filemill.adapters.kafka.topics import TopicIdentities
from filemill.adapters.postgres.connection import create_engine
from filemill.adapters.postgres.lease import PostgresLease
from filemill.adapters.postgres.monitor_store import MonitorStore
from filemill.adapters.postgres.outbox import PostgresOutbox, WaitingQueues
from filemill.adapters.postgres.status_store import PostgresStatusStore
from filemill.adapters.s3.admin import s3_client
from filemill.adapters.s3.bucket import Bucket
from filemill.adapters.s3.store import S3ObjectStore
from filemill.adapters.s3.uploads import S3Uploads
from filemill.config.settings import Settings
from filemill.domain.queues import DEFAULT_QUEUE, Queue, check_queue
from filemill.domain.signatures import ResultSigner
from filemill.entrypoints.kafka_only import kafka_admin
from filemill.entrypoints.processor import handler_pool, handler_sources
from filemill.handlers.registry import load_handlers
from filemill.queries.dead_letters import DeadLetterIndex
from filemill.services import setup
from filemill.services.accounts import Accounts, Sessions
from filemill.services.audit_log import AuditLog
from filemill.services.federation import Federation
from filemill.services.foreign_results import HashFiller
from filemill.services.leftovers import Leftovers, LeftUpload
from filemill.services.offset_reset import OffsetReset
from filemill.services.operations import Operations
from filemill.services.orphans import Orphans
from filemill.services.request_losses import find_bounds
from filemill.services.submissions import no_relay
from filemill.services.tokens import Tokens
from filemill.verification.check import verify as check
from filemill.verification.report import VerificationReport
from filemill_workers.file_processor.handlers import Handlers
from filemill_workers.group_monitor import GroupMonitor, QueueMonitor
from filemill_workers.outbox_relay import OutboxRelay, QueueRelays
from filemill_workers.status_sync import StatusSync

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = [
    "accounts",
    "audit_log",
    "bucket",
    "create_engine",
    "dead_letter_index",
    "federation",
    "hash_filler",
    "kafka_admin",
    "leftovers",
    "monitor",
    "offset_reset",
    "operations",
    "orphans",
    "prepare",
    "relay",
    "s3_client",
    "sessions",
    "sync",
    "tokens",
    "verify",
]


def bucket(settings: Settings, s3: "S3Client | None" = None) -> Bucket:
    """The bucket, for everything that is not on the hot path. `s3` is a client to share; None: a new one."""
    return Bucket(settings, s3 or s3_client(settings))


def operations(
    settings: Settings,
    engine: sa.Engine,
    *,
    s3: "S3Client | None" = None,
    kafka: Callable[[], KafkaAdmin] | None = None,
    wake_relay: Callable[[], None] = no_relay,
) -> Operations:
    """What people do to files and workers. Kafka clients are created at their first use."""
    return Operations(
        settings,
        engine,
        bucket(settings, s3),
        kafka=kafka or functools.cache(lambda: KafkaAdmin(settings)),
        publisher=functools.cache(lambda: KafkaPublisher(settings, "operations")),
        wake_relay=wake_relay,
    )


def offset_reset(
    settings: Settings,
    engine: sa.Engine,
    *,
    queue: str = DEFAULT_QUEUE,
    admin: KafkaAdmin | None = None,
    file_operations: Operations | None = None,
) -> OffsetReset:
    """Resets of the offsets of a queue's group. Raises InvalidRequest if there is no such queue."""
    check_queue(queue, settings.all_queues)
    kafka = admin or KafkaAdmin(settings)
    file_operations = file_operations or operations(settings, engine, kafka=lambda: kafka)
    return OffsetReset(settings.of_queue(queue), engine, kafka, file_operations)


def dead_letter_index(settings: Settings, engine: sa.Engine) -> DeadLetterIndex:
    """The index of the dead letters."""
    return DeadLetterIndex(settings, engine)


def orphans(settings: Settings, engine: sa.Engine) -> Orphans:
    """Lists and deletes objects without an owner."""
    return Orphans(engine, bucket(settings))


def audit_log(engine: sa.Engine) -> AuditLog:
    """What operators do with the audit log."""
    return AuditLog(engine)


def leftovers(settings: Settings, engine: sa.Engine) -> Leftovers:
    """Removes objects and uploads that nothing needs."""
    uploads = S3Uploads(settings)

    def open_uploads() -> Iterator[LeftUpload]:
        return (LeftUpload(one.key, one.upload_id, one.begun_at) for one in uploads.open())

    return Leftovers(engine, bucket(settings), uploads, open_uploads)


def accounts(engine: sa.Engine) -> Accounts:
    """What admins do to accounts."""
    return Accounts(engine)


def tokens(engine: sa.Engine) -> Tokens:
    """What people do to tokens."""
    return Tokens(engine)


def federation(settings: Settings, engine: sa.Engine, sessions: Sessions) -> Federation:
    """Sign-in at the providers of `oidc_providers`."""
    from filemill.adapters.oidc.provider import OidcClient  # noqa: PLC0415 - other modes do not need Authlib

    providers = {
        name: OidcClient(
            name, provider, f"{settings.public_url}/sign-in/{name}/callback", settings.server_timeout_seconds
        )
        for name, provider in settings.oidc_providers.items()
    }
    return Federation(engine, sessions, providers)


def sessions(settings: Settings, engine: sa.Engine) -> Sessions:
    """The sessions of the people who may sign in with these settings."""
    issuers = [provider.issuer for provider in settings.oidc_providers.values()]
    return Sessions(engine, issuers=issuers if settings.auth == "oidc" else [None])


def kafka_access(settings: Settings) -> KafkaAccess:
    """Users of Kafka and their rights."""
    return KafkaAccess(settings)


def prepare(settings: Settings, *, timeout_seconds: float = 0) -> None:
    """Prepare the servers, see `filemill.services.setup`. Raises Unavailable."""
    engine = create_engine(settings, "setup")
    try:
        kafka = functools.cache(lambda: KafkaAdmin(settings))
        setup.prepare(
            settings,
            engine,
            kafka,
            bucket(settings),
            kafka_access=functools.cache(lambda: kafka_access(settings)) if settings.kafka_role_passwords else None,
            timeout_seconds=timeout_seconds,
        )
    finally:
        engine.dispose()


def relay(settings: Settings, engine: sa.Engine) -> QueueRelays:
    """An outbox relay of all queues with a publisher of its own; runs on one thread."""
    lease = PostgresLease(engine, "relay", settings.worker_id, settings.lease_seconds)
    queues, identities = settings.all_queues, TopicIdentities(settings, "relay")
    publisher, waiting = KafkaPublisher(settings, "relay"), WaitingQueues(list(queues))
    submit = ThreadPoolExecutor(1, thread_name_prefix="mark-published").submit

    def of_queue(queue: Queue) -> OutboxRelay:
        return OutboxRelay(
            PostgresOutbox(engine, lease, queue.name, waiting),
            lease,
            publisher,
            topic=queue.topic,
            identity=lambda: identities([queue.topic]).get(queue.topic),
            batch=settings.relay_batch,
            lease_seconds=settings.lease_seconds,
            submit=submit,
            among_others=len(queues) > 1,
        )

    return QueueRelays([of_queue(queue) for queue in queues.values()])


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
        signer=ResultSigner(settings.result_key.get_secret_value()),
    )


def hash_filler(settings: Settings, engine: sa.Engine) -> HashFiller:
    """Fills in hashes of foreign results; runs beside the sync."""
    return HashFiller(engine, bucket(settings))


def monitor(settings: Settings, engine: sa.Engine) -> GroupMonitor:
    """A group monitor for the groups of all queues."""
    # A monitor that is late by one interval keeps its lease: it lasts one round and a timeout of Kafka longer.
    seconds = settings.lease_seconds + settings.monitor_interval_seconds + settings.server_timeout_seconds
    admin = KafkaAdmin(settings)
    retention = timedelta(hours=settings.monitor_retention_hours)

    def of_queue(settings: Settings) -> QueueMonitor:
        store = MonitorStore(engine, settings.group_id, retention)
        return QueueMonitor(store, admin, settings, lambda: find_bounds(settings, admin, engine))

    return GroupMonitor(
        MonitorStore(engine, settings.group_id, retention),
        admin,
        PostgresLease(engine, "monitor", settings.worker_id, seconds),
        [of_queue(settings.of_queue(name)) for name in settings.all_queues],
        settings=settings,
        interval_seconds=settings.monitor_interval_seconds,
    )


def verify(settings: Settings, engine: sa.Engine) -> VerificationReport:
    """Run all checks of `filemill verify`. Raises Unavailable, and InvalidHandler if a handler cannot be imported."""
    handlers = Handlers(load_handlers(handler_sources(settings)), handler_pool(settings))

    async def run() -> VerificationReport:
        try:
            return await check(settings, engine, KafkaAdmin(settings), S3ObjectStore(settings), handlers)
        finally:
            await handlers.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def run_beside(target: HashFiller, stop: threading.Event) -> threading.Thread:
    """Run something on a daemon thread."""
    thread = threading.Thread(target=target.run, args=(stop,), name=type(target).__name__, daemon=True)
    thread.start()
    return thread
