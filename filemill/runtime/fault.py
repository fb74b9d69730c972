"""What a fault is: something that begins, lasts, and is undone whatever happens meanwhile. Those that need no lab."""

import signal
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from filemill.runtime.journal import JournalEntry

# A broker that recovers from a kill on a busy machine has been seen to take more than a minute.
SERVER_START_SECONDS = 180.0


def _nothing() -> None:
    pass


class Fault(msgspec.Struct, kw_only=True):
    """A fault, ready to be injected. `begin` may put what it learns into the entry's `detail`."""

    name: str
    begin: Callable[[JournalEntry], None]
    undo: Callable[[], None] = _nothing
    seconds: float = 0.0
    target: str = ""

    def run(self, entry: JournalEntry, sleep: Callable[[float], object] = time.sleep) -> None:
        """Begin, let it last for its seconds (`sleep` may be cut short), undo."""
        try:
            self.begin(entry)
            sleep(self.seconds)
        finally:
            self.undo()


class FaultableServer(Protocol):
    """A server that faults can break: an embedded `Server` or a `filemill.lab.compose_stack.ComposedServer`."""

    @property
    def name(self) -> str:
        """Kafka, postgres or s3."""

    def kill(self) -> None:
        """SIGKILL; it stays down."""

    def suspend(self) -> None:
        """Freeze it."""

    def resume(self) -> None:
        """Let it go on."""

    def start(self, seconds: float) -> None:
        """Start it again."""


def server_killed(server: FaultableServer, seconds: float) -> Fault:
    """SIGKILL of a server, down for a while, then started again."""
    return Fault(
        name=f"{server.name} killed",
        target=server.name,
        seconds=seconds,
        begin=lambda _entry: server.kill(),
        undo=lambda: server.start(SERVER_START_SECONDS),
    )


def server_suspended(server: FaultableServer, seconds: float) -> Fault:
    """SIGSTOP of a server: connections stay open and nothing answers."""
    return Fault(
        name=f"{server.name} stopped (SIGSTOP)",
        target=server.name,
        seconds=seconds,
        begin=lambda _entry: server.suspend(),
        undo=server.resume,
    )


def process_suspended(role: str, target: str, send: Callable[[int], None], seconds: float) -> Fault:
    """SIGSTOP of a worker, and SIGCONT after a while: a zombie, if that is longer than its session or lease."""
    return Fault(
        name=f"{role} stopped (SIGSTOP)",
        target=target,
        seconds=seconds,
        begin=lambda _entry: send(signal.SIGSTOP),
        undo=lambda: send(signal.SIGCONT),
    )
