"""The servers and use cases that the pages and REST use, created once per process.

The server calls `install` at its start; pages call `current`. Without the server (`streamlit run`, AppTest), `current`
creates the services from the settings, without a relay.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.config import settings as settings_module
from filemill.config.settings import Settings
from filemill.domain.dead_letters import DeadLetter
from filemill.domain.permissions import Principal
from filemill.entrypoints import bootstrap
from filemill.queries.dead_letters import DeadLetterIndex
from filemill.runtime.stack_state import StackState, running_stack
from filemill.services.accounts import Sessions
from filemill.services.audit_log import AuditLog
from filemill.services.dead_letters import Replay, ignore_progress, replay
from filemill.services.federation import Federation
from filemill.services.offset_reset import OffsetReset
from filemill.services.operations import Operations
from filemill.services.submissions import Submissions
from filemill.services.tokens import TokenLookup, Tokens
from filemill_dashboard.state.open_pages import OpenPages
from filemill_workers.outbox_relay import RelayState

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


HEALTH_CHECK_SECONDS = 2.0


class Relay(Protocol):
    """The outbox relay as this process uses it; `filemill_workers.outbox_relay.QueueRelays` implements it."""

    @property
    def state(self) -> RelayState:
        """Active, standby, or waiting for something."""

    @property
    def problem(self) -> str | None:
        """What it waits for; None unless it waits."""

    def run(self, stop: threading.Event) -> None:
        """Publish requests until `stop` is set."""

    def wake(self) -> None:
        """Read the outbox now."""


class Services:
    """The servers and use cases of this process. Connections are opened at first use. Any thread."""

    def __init__(self, settings: Settings, engine: sa.Engine, relay: Relay | None = None) -> None:
        self.settings = settings
        self._engine = engine
        self._relay = relay
        self.open_pages = OpenPages(settings.open_pages)

    @cached_property
    def s3(self) -> "S3Client":
        """The S3 client; created at first use, because boto3 is slow to load."""
        return bootstrap.s3_client(self.settings)

    @cached_property
    def s3_for_health_checks(self) -> "S3Client":
        """An S3 client for health checks, with a short timeout, so that it does not delay the end of this process."""
        timeout = min(HEALTH_CHECK_SECONDS, self.settings.server_timeout_seconds)
        return bootstrap.s3_client(self.settings.model_copy(update={"server_timeout_seconds": timeout}))

    @cached_property
    def kafka(self) -> KafkaAdmin:
        """Kafka's administration; created at first use, because the client connects at once."""
        return bootstrap.kafka_admin(self.settings)

    @cached_property
    def kafka_for_health_checks(self) -> KafkaAdmin:
        """Kafka's administration for health checks, with a short timeout, so that an outage is known soon."""
        timeout = min(HEALTH_CHECK_SECONDS, self.settings.server_timeout_seconds)
        return bootstrap.kafka_admin(self.settings.model_copy(update={"server_timeout_seconds": timeout}))

    @cached_property
    def submissions(self) -> Submissions:
        """Accepts requests, and wakes the relay of this process."""
        settings = self.settings
        queues = list(settings.all_queues)
        return Submissions(
            self._engine, self._wake_relay, queues, settings.limits, own_files_only=settings.own_files_only
        )

    @cached_property
    def operations(self) -> Operations:
        """Retry, cancel and delete files; control workers."""
        return bootstrap.operations(
            self.settings, self._engine, s3=self.s3, kafka=lambda: self.kafka, wake_relay=self._wake_relay
        )

    @cached_property
    def sessions(self) -> Sessions:
        """The sessions of people who have signed in."""
        return bootstrap.sessions(self.settings, self._engine)

    @cached_property
    def federation(self) -> Federation:
        """Sign-in at OpenID Connect providers."""
        return bootstrap.federation(self.settings, self._engine, self.sessions)

    @cached_property
    def audit_log(self) -> AuditLog:
        """Read and export the audit log."""
        return bootstrap.audit_log(self._engine)

    @cached_property
    def tokens(self) -> Tokens:
        """What people do to tokens."""
        return Tokens(self._engine)

    @cached_property
    def token_lookup(self) -> TokenLookup:
        """Whose token a program sends."""
        return TokenLookup(self._engine)

    def offset_reset(self, queue: str) -> OffsetReset:
        """Reset the offsets of a queue's group. Raises InvalidRequest if there is no such queue."""
        return bootstrap.offset_reset(
            self.settings, self._engine, queue=queue, admin=self.kafka, file_operations=self.operations
        )

    @cached_property
    def dead_letters(self) -> DeadLetterIndex:
        """The dead letters, read once for all callers."""
        return bootstrap.dead_letter_index(self.settings, self._engine)

    def replay(
        self,
        letters: Sequence[DeadLetter],
        principal: Principal,
        *,
        rate: float,
        max_runs: int,
        dry_run: bool = False,
        progress: Callable[[int], None] = ignore_progress,
    ) -> Replay:
        """Replay dead letters, see `filemill.services.dead_letters.replay`. Raises Unavailable."""
        return replay(
            self._engine,
            letters,
            principal=principal,
            rate=rate,
            dry_run=dry_run,
            max_runs=max_runs,
            progress=progress,
            wake_relay=self._wake_relay,
        )

    @property
    def relay_state(self) -> RelayState | None:
        """The state of the relay in this process; None without one."""
        return self._relay.state if self._relay is not None else None

    @property
    def relay_summary(self) -> str:
        """The state of the relay in this process and its problem, if it has one; "none" without a relay."""
        if self._relay is None:
            return "none"
        problem = self._relay.problem
        return self._relay.state.value if problem is None else f"{self._relay.state.value}: {problem}"

    @property
    def engine(self) -> sa.Engine:
        """The database engine, for use cases that take one."""
        return self._engine

    def stack(self) -> StackState | None:
        """The current state of the embedded stack that this process belongs to; None if it belongs to none."""
        stack = running_stack(self.settings.home)
        ours = stack is not None and str(stack.settings.get("kafka_broker")) == self.settings.kafka_broker
        return stack if ours else None

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """A database connection for reads. Raises Unavailable."""
        with self._engine.connect() as connection:
            yield connection

    def _wake_relay(self) -> None:
        """Wake the relay of this process, if it has one: there are new rows in the outbox."""
        if self._relay is not None:
            self._relay.wake()

    def close(self) -> None:
        """Close the database connections."""
        self._engine.dispose()


_lock = threading.Lock()
_current: Services | None = None


def install(services: Services | None) -> None:
    """Set the services of this process; None removes them."""
    global _current  # noqa: PLW0603 - Streamlit runs pages as scripts, which take no arguments
    with _lock:
        _current = services


def current() -> Services:
    """The services of this process, created if necessary. Raises InvalidSettings."""
    global _current  # noqa: PLW0603
    with _lock:
        if _current is None:
            settings = settings_module.load()
            _current = Services(settings, bootstrap.create_engine(settings, "dashboard"))
        return _current
