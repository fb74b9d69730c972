"""Faults that need no lab: a fault begins, lasts for some seconds, and is always undone."""

import signal
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec

from filemill.runtime.journal import JournalEntry

# A broker that recovered from a kill on a busy machine has taken more than a minute.
SERVER_START_SECONDS = 180.0


class FaultCode(StrEnum):
    """The kind of a fault, for programs."""

    SERVER_KILLED = "server-killed"
    SERVER_SUSPENDED = "server-suspended"
    PROCESSOR_KILLED = "processor-killed"
    WORKER_KILLED = "worker-killed"
    WORKER_SUSPENDED = "worker-suspended"
    # Only the lab injects these.
    PROCESSORS_KILLED = "processors-killed"
    PROCESSOR_TERMINATED = "processor-terminated"
    PROCESSOR_REJOINED = "processor-rejoined"
    SCALED = "scaled"
    PARTITIONS_ADDED = "partitions-added"
    OFFSETS_RESET = "offsets-reset"
    S3_ERRORS = "s3-errors"
    S3_SLOW = "s3-slow"
    POISON_MESSAGE = "poison-message"
    BAD_HEADER = "bad-header"
    RECORDS_DELETED = "records-deleted"
    TOPIC_RECREATED = "topic-recreated"
    DATABASE_READ_ONLY = "database-read-only"
    CLOCK_SKEWED = "clock-skewed"
    CLOCK_JUMPED = "clock-jumped"
    OTHER = "other"

    @classmethod
    def of_kill(cls, role: str) -> "FaultCode":
        """The code for a kill of a worker with this role."""
        return cls.PROCESSOR_KILLED if role == "processor" else cls.WORKER_KILLED


def _do_nothing() -> None:
    pass


class Fault(msgspec.Struct, kw_only=True):
    """A fault that can be injected. `begin` may add findings to the entry's `detail`."""

    name: str
    begin: Callable[[JournalEntry], None]
    code: FaultCode = FaultCode.OTHER
    undo: Callable[[], None] = _do_nothing
    seconds: float = 0.0
    target: str = ""

    def run(self, entry: JournalEntry, sleep: Callable[[float], object] = time.sleep) -> None:
        """Begin the fault, wait for its duration with `sleep`, which may return earlier, and undo it."""
        try:
            self.begin(entry)
            sleep(self.seconds)
        finally:
            self.undo()


class FaultableServer(Protocol):
    """A server that faults can affect: an embedded `Server`, or a server of the lab's composed stack."""

    @property
    def name(self) -> str:
        """The name: kafka, postgres or s3."""

    def kill(self) -> None:
        """Send SIGKILL; the server stays down."""

    def suspend(self) -> None:
        """Suspend all its processes."""

    def resume(self) -> None:
        """Resume after `suspend`."""

    def start(self, seconds: float) -> None:
        """Start it again."""


def server_killed(server: FaultableServer, seconds: float) -> Fault:
    """SIGKILL of a server, which is started again after `seconds`."""
    return Fault(
        name=f"{server.name} killed",
        code=FaultCode.SERVER_KILLED,
        target=server.name,
        seconds=seconds,
        begin=lambda _entry: server.kill(),
        undo=lambda: server.start(SERVER_START_SECONDS),
    )


def server_suspended(server: FaultableServer, seconds: float) -> Fault:
    """SIGSTOP of a server: connections stay open and requests get no answer."""
    return Fault(
        name=f"{server.name} stopped (SIGSTOP)",
        code=FaultCode.SERVER_SUSPENDED,
        target=server.name,
        seconds=seconds,
        begin=lambda _entry: server.suspend(),
        undo=server.resume,
    )


def process_suspended(role: str, target: str, send: Callable[[int], None], seconds: float) -> Fault:
    """SIGSTOP of a worker, then SIGCONT: it may outlast the worker's session or lease."""
    return Fault(
        name=f"{role} stopped (SIGSTOP)",
        code=FaultCode.WORKER_SUSPENDED,
        target=target,
        seconds=seconds,
        begin=lambda _entry: send(signal.SIGSTOP),
        undo=lambda: send(signal.SIGCONT),
    )
