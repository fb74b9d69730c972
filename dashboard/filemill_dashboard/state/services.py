"""What the pages and REST work with, wired once per process.

`install` puts them in place when the process starts; a page asks for `current`. A page that is run without the server
(`streamlit run`, AppTest) wires what the settings name, without a relay.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.config import settings as settings_module
from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from filemill.queries.dead_letters import DeadLetterIndex
from filemill.runtime.stack_state import StackState, running_stack
from filemill.services.offset_reset import OffsetReset
from filemill.services.operations import Action, Operations, Outcome
from filemill.services.submissions import Submissions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


PROBE_SECONDS = 2.0


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
        """Questions to the broker; made at first use, since the client connects by itself from then on."""
        return KafkaAdmin(self.settings)

    @cached_property
    def submissions(self) -> Submissions:
        """Accepts requests, and wakes the relay of this process."""
        return Submissions(self._engine, self.wake_relay)

    @cached_property
    def operations(self) -> Operations:
        """What people do to files and workers."""
        return Operations(self.settings, self._engine, self.objects)

    @cached_property
    def offset_reset(self) -> OffsetReset:
        """Moving the group's offsets."""
        return OffsetReset(self.settings, self._engine, self.kafka, self.operations)

    @cached_property
    def dead_letters(self) -> DeadLetterIndex:
        """The dead letters, read once for all who look at them."""
        return DeadLetterIndex(self.settings, self._engine)

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

    def apply(self, action: Action, ids: Sequence[int], actor: str) -> Outcome:
        """Retry, cancel or delete files. Raises Unavailable."""
        outcome = self.operations.apply(action, ids, actor)
        if action is Action.RETRY:
            self.wake_relay()
        return outcome

    def wake_relay(self) -> None:
        """Have the relay in this process, if there is one, look at the outbox now."""
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
