"""Fault injection in a running stack: a command begins a fault, which ends by itself or when the stack stops.

Faults run in the supervisor, not in the page that requests them: the page is a worker of the stack, and could end
before it has undone the fault.
"""

import threading
import time
from pathlib import Path
from typing import Protocol

import structlog

from filemill.runtime.fault import Fault, FaultableServer, FaultCode, process_suspended, server_killed, server_suspended
from filemill.runtime.journal import FAULT, Journal
from filemill.runtime.stack_state import StackState
from filemill.runtime.supervisor_client import FAULT_SECONDS_MAX, CommandRejected, CommandRejection, FaultKind

# How long a command waits until its fault has begun.
BEGIN_SECONDS = 10.0
# A stack that stops ends its faults within this time.
STOP_POLL_SECONDS = 0.1

log = structlog.get_logger("stack")


class FaultableStack(Protocol):
    """The part of the supervisor that faults need."""

    @property
    def state(self) -> StackState:
        """The servers and workers."""

    def server(self, name: str) -> FaultableServer:
        """A server by name. Raises KeyError."""

    def kill_worker(self, worker_id: str, number: int = ..., *, restart: bool = ...) -> None:
        """Send a worker a signal. Raises KeyError."""


class FaultInjector:
    """The faults of one stack, at most one at a time per target. Safe to use from several threads."""

    def __init__(self, stack: FaultableStack, journal: Path, stopped: threading.Event) -> None:
        """When `stopped` is set, all faults end."""
        self._stack = stack
        self._journal = Journal(journal)
        self._stopped = stopped
        self._lock = threading.Lock()
        self._active: dict[str, threading.Event] = {}  # set: the fault on this target is to end

    def begin(self, kind: FaultKind, target: str, seconds: float, key: str) -> None:
        """Begin a fault and return when it has begun. Raises KeyError, CommandRejected."""
        if not 0 < seconds <= FAULT_SECONDS_MAX:
            raise CommandRejected(
                f"A fault may last up to {FAULT_SECONDS_MAX:g} s, not {seconds:g}", CommandRejection.INVALID_VALUE
            )
        fault = self._make(kind, target, seconds)
        with self._lock:
            if target in self._active:
                raise CommandRejected(f"A fault is still active on {target}", CommandRejection.FAULT_ACTIVE)
            ended = self._active[target] = threading.Event()
        begun = threading.Event()
        run = (fault, key, begun, ended)
        threading.Thread(target=self._run, args=run, name=f"fault-{target}", daemon=True).start()
        begun.wait(BEGIN_SECONDS)

    def end(self, target: str) -> None:
        """End the fault on `target` now; returns before it is undone. Raises CommandRejected if there is none."""
        with self._lock:
            ended = self._active.get(target)
        if ended is None:
            raise CommandRejected(f"No fault is active on {target}", CommandRejection.NO_FAULT)
        ended.set()

    def _make(self, kind: FaultKind, target: str, seconds: float) -> Fault:
        state = self._stack.state
        if target in {server.name for server in state.servers}:
            make = server_killed if kind == "killed" else server_suspended
            return make(self._stack.server(target), seconds)
        worker = next((worker for worker in state.workers if worker.id == target), None)
        if worker is None:
            raise KeyError(f"There is no server or worker {target!r}")
        if worker.role == "dashboard":
            raise CommandRejected(
                "Faults on the dashboard are not allowed: it shows their effect", CommandRejection.NOT_ALLOWED
            )
        if kind == "killed":
            return Fault(
                name=f"{worker.role} killed",
                code=FaultCode.of_kill(worker.role),
                target=target,
                begin=lambda _entry: self._stack.kill_worker(target),
            )
        return process_suspended(worker.role, target, lambda number: self._stack.kill_worker(target, number), seconds)

    def _run(self, fault: Fault, key: str, begun: threading.Event, ended: threading.Event) -> None:
        def wait(seconds: float) -> None:
            begun.set()
            deadline = time.monotonic() + seconds
            while not self._stopped.is_set() and (left := deadline - time.monotonic()) > 0:
                if ended.wait(min(left, STOP_POLL_SECONDS)):
                    return

        try:
            with self._journal.record_interval(
                FAULT, fault.name, fault.target, fault.code, key=key, seconds=fault.seconds
            ) as entry:
                fault.run(entry, wait)
        except Exception as error:  # noqa: BLE001 - the journal has it; the supervisor restarts a server that is down
            log.warning("A fault could not be injected or undone", fault=fault.name, error=str(error))
        finally:
            begun.set()
            with self._lock:
                self._active.pop(fault.target, None)
