"""The journal of a stack's processes: each start and each end of a server or worker, as JSON lines in its home."""

import contextlib
import threading
from pathlib import Path

from filemill.runtime.journal import Journal
from filemill.runtime.process_history import PROCESS, ProcessChange
from filemill.runtime.stack_state import ProcessRef, StackState, replace_private_file
from filemill_infra.embedded.processes.workers import ProcessEvent

# So many lines of former stacks of the home are kept.
KEPT_LINES = 2000


class ProcessJournal:
    """Derives starts and ends from the states of the stack. Safe to use from several threads; it has no callbacks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, ProcessRef]] = {}
        self._ended: dict[str, ProcessRef] = {}

    def open(self) -> None:
        """Keep the latest lines of former stacks."""
        if self._path.is_file():
            lines = self._path.read_bytes().splitlines(keepends=True)
            if len(lines) > KEPT_LINES:
                replace_private_file(self._path, b"".join(lines[-KEPT_LINES:]))

    def observe(self, state: StackState) -> None:
        """Record what has started or was stopped for good since the last call."""
        with self._lock:
            found = {server.name: (server.name, server.process) for server in state.servers}
            found |= {worker.id: (worker.role, worker.process) for worker in state.workers}
            for name, (role, process) in found.items():
                _, former = self._known.get(name, (role, None))
                if process == former:
                    continue
                if former is not None and self._ended.get(name) != former:
                    self._record(ProcessChange.ENDED, name, role, pid=former.pid)
                self._record(ProcessChange.STARTED, name, role, pid=process.pid, again=former is not None)
            for name, (role, process) in self._known.items():
                if name not in found and self._ended.get(name) != process:
                    self._record(ProcessChange.STOPPED, name, role, pid=process.pid)
            self._known = found

    def report(self, event: ProcessEvent) -> None:
        """Record the unexpected end of a process that the supervisor reports."""
        with self._lock:
            if event.name not in self._known or event.kind not in ("died", "failing"):
                return
            role, process = self._known[event.name]
            if self._ended.get(event.name) != process:
                self._ended[event.name] = process
                self._record(ProcessChange.ENDED, event.name, role, pid=process.pid, text=event.text)

    def close(self) -> None:
        """Record that everything was stopped with the stack."""
        with self._lock:
            for name, (role, process) in self._known.items():
                if self._ended.get(name) != process:
                    self._record(ProcessChange.STOPPED, name, role, pid=process.pid)
            self._known = {}

    def _record(self, change: ProcessChange, name: str, role: str, **detail: object) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the monitoring
            Journal(self._path).record_event(PROCESS, change.value, name, role=role, **detail)
