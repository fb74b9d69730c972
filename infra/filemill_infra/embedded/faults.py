"""Faults on purpose in a running stack: begun by an order, undone when their time is over or the stack stops.

They run here, in the supervisor, and not in the page that asks for them: a page is a worker of the stack, and may be
the very one that does not live to undo it.
"""

import threading
from pathlib import Path
from typing import Protocol

import structlog

from filemill.runtime.fault import Fault, FaultableServer, process_suspended, server_killed, server_suspended
from filemill.runtime.journal import FAULT, Journal
from filemill.runtime.stack_state import StackState
from filemill.runtime.supervisor_client import FAULT_SECONDS_MAX, FaultKind

# How long an order waits for its fault to have begun.
BEGIN_SECONDS = 10.0

log = structlog.get_logger("stack")


class FaultableStack(Protocol):
    """The part of the supervisor that faults are done to."""

    @property
    def state(self) -> StackState:
        """What runs."""

    def server(self, name: str) -> FaultableServer:
        """One of the servers. Raises KeyError."""

    def kill_worker(self, worker_id: str, number: int = ..., *, restart: bool = ...) -> None:
        """Send a worker a signal. Raises KeyError."""


class FaultInjector:
    """The faults of one stack: at most one at a time on each target. Safe to use from several threads."""

    def __init__(self, stack: FaultableStack, journal: Path, stopped: threading.Event) -> None:
        """`ended` cuts all of them short."""
        self._stack = stack
        self._journal = Journal(journal)
        self._stopped = stopped
        self._lock = threading.Lock()
        self._active: set[str] = set()

    def begin(self, kind: FaultKind, target: str, seconds: float, key: str) -> None:
        """Begin one, and return once it has. Raises KeyError, ValueError."""
        if not 0 < seconds <= FAULT_SECONDS_MAX:
            raise ValueError(f"A fault may last for up to {FAULT_SECONDS_MAX:g} s, not for {seconds:g}")
        fault = self._make(kind, target, seconds)
        with self._lock:
            if target in self._active:
                raise ValueError(f"{target} has a fault already: wait until it is over")
            self._active.add(target)
        begun = threading.Event()
        threading.Thread(target=self._run, args=(fault, key, begun), name=f"fault-{target}", daemon=True).start()
        begun.wait(BEGIN_SECONDS)

    def _make(self, kind: FaultKind, target: str, seconds: float) -> Fault:
        state = self._stack.state
        if target in {server.name for server in state.servers}:
            make = server_killed if kind == "killed" else server_suspended
            return make(self._stack.server(target), seconds)
        worker = next((worker for worker in state.workers if worker.id == target), None)
        if worker is None:
            raise KeyError(f"There is no server or worker {target!r}")
        if worker.role == "dashboard":
            raise ValueError("The page does not break itself: it would not be there to show what follows")
        if kind == "killed":
            return Fault(
                name=f"{worker.role} killed", target=target, begin=lambda _entry: self._stack.kill_worker(target)
            )
        return process_suspended(worker.role, target, lambda number: self._stack.kill_worker(target, number), seconds)

    def _run(self, fault: Fault, key: str, begun: threading.Event) -> None:
        def last(seconds: float) -> None:
            begun.set()
            self._stopped.wait(seconds)

        try:
            with self._journal.record_interval(
                FAULT, fault.name, fault.target, key=key, seconds=fault.seconds
            ) as entry:
                fault.run(entry, last)
        except Exception as error:  # noqa: BLE001 - it is in the journal; a server that did not come back is tried again
            log.warning("A fault could not be done or undone", fault=fault.name, error=str(error))
        finally:
            begun.set()
            with self._lock:
                self._active.discard(fault.target)
