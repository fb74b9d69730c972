"""What the pages and REST work with, wired once per process.

`install` puts them in place when the process starts; a page asks for `current`. A page that is run without the server
(`streamlit run`, AppTest) wires what the settings name, without a relay.
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
from filemill.entrypoints import bootstrap
from filemill.queries.dead_letters import DeadLetterIndex
from filemill.runtime.stack_state import StackState, running_stack
from filemill.services.dead_letters import Replay, replay
from filemill.services.offset_reset import OffsetReset
from filemill.services.operations import Operations
from filemill.services.submissions import Submissions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


PROBE_SECONDS = 2.0


def _ignore(_done: int) -> None:
    """No progress is wanted."""


class Relay(Protocol):
    """The part of the outbox relay that this process needs: `filemill_workers.outbox_relay.OutboxRelay` has it."""

    state: str

    def run(self, stop: threading.Event) -> None:
        """Relay until told to stop."""

    def wake(self) -> None:
        """Look at the outbox now."""


class Services:
    """The servers as this process sees them. Opens nothing by itself; any thread may use it."""

    def __init__(self, settings: Settings, engine: sa.Engine, relay: Relay | None = None) -> None:
        self.settings = settings
        self._engine = engine
        self._relay = relay

    @cached_property
    def objects(self) -> "S3Client":
        """The S3 client; made at first use, since boto3 takes its time."""
        return bootstrap.s3_client(self.settings)

    @cached_property
    def quick_objects(self) -> "S3Client":
        """For probes: a service that does not answer soon is away, and must not hold up the end of this process."""
        timeout = min(PROBE_SECONDS, self.settings.server_timeout_seconds)
        return bootstrap.s3_client(self.settings.model_copy(update={"server_timeout_seconds": timeout}))

    @cached_property
    def kafka(self) -> KafkaAdmin:
        """Kafka's administration; created at first use, because the client connects at once."""
        return bootstrap.kafka_admin(self.settings)

    @cached_property
    def submissions(self) -> Submissions:
        """Accepts requests, and wakes the relay of this process."""
        return Submissions(self._engine, self._wake_relay)

    @cached_property
    def operations(self) -> Operations:
        """What people do to files and workers."""
        return bootstrap.operations(self.settings, self._engine, kafka=lambda: self.kafka, wake_relay=self._wake_relay)

    @cached_property
    def offset_reset(self) -> OffsetReset:
        """Moving the group's offsets."""
        return bootstrap.offset_reset(self.settings, self._engine, admin=self.kafka, operations=self.operations)

    @cached_property
    def dead_letters(self) -> DeadLetterIndex:
        """The dead letters, read once for all callers."""
        return bootstrap.dead_letter_index(self.settings, self._engine)

    def replay(
        self,
        letters: Sequence[DeadLetter],
        actor: str,
        *,
        rate: float,
        max_runs: int,
        dry_run: bool = False,
        progress: Callable[[int], None] = _ignore,
    ) -> Replay:
        """Replay dead letters, see `filemill.services.dead_letters.replay`. Raises Unavailable."""
        return replay(
            self._engine,
            letters,
            actor=actor,
            rate=rate,
            dry_run=dry_run,
            max_runs=max_runs,
            progress=progress,
            wake_relay=self._wake_relay,
        )

    @property
    def relay_state(self) -> str | None:
        """What the relay in this process does; None where there is none."""
        return self._relay.state if self._relay is not None else None

    @property
    def engine(self) -> sa.Engine:
        """For what takes an engine: dead letters, jobs."""
        return self._engine

    def stack(self) -> StackState | None:
        """The embedded stack that this process belongs to, as it is now; None where it belongs to none."""
        stack = running_stack(self.settings.home)
        ours = stack is not None and str(stack.settings.get("kafka_broker")) == self.settings.kafka_broker
        return stack if ours else None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to read with. Raises Unavailable."""
        with self._engine.connect() as connection:
            yield connection

    def _wake_relay(self) -> None:
        """Wake the relay of this process, if it has one: there are new rows in the outbox."""
        if self._relay is not None:
            self._relay.wake()

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()


_lock = threading.Lock()
_current: Services | None = None


def install(services: Services | None) -> None:
    """Make these the process's services; None forgets them."""
    global _current  # noqa: PLW0603 - Streamlit runs pages as scripts: nothing can be handed to them
    with _lock:
        _current = services


def current() -> Services:
    """The process's services. Raises settings.InvalidSettings where they have to be wired and cannot."""
    global _current  # noqa: PLW0603
    with _lock:
        if _current is None:
            settings = settings_module.load()
            _current = Services(settings, bootstrap.create_engine(settings, "dashboard"))
        return _current
