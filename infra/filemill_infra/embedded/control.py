"""The control socket of a supervisor: other processes of this user scale, stop and kill workers and inject faults.

The Unix socket is in a folder of mode 0700, so the file system decides who may connect. The client is
`filemill.runtime.supervisor_client`.
"""

import contextlib
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from filemill.runtime.supervisor_client import (
    CommandRejected,
    CommandRejection,
    FaultKind,
    SupervisorCommand,
    SupervisorResponse,
)

COMMAND_MAX_BYTES = 4096
READ_SECONDS = 5.0


class SupervisorControls(Protocol):
    """The part of the supervisor that commands can call."""

    def scale(self, role: str, count: int) -> list[str]:
        """Run `count` workers of `role`; returns their ids. Raises ValueError."""

    def stop_worker(self, worker_id: str) -> None:
        """Stop a worker for good. Raises KeyError."""

    def kill_worker(self, worker_id: str) -> None:
        """Kill a worker, which is then restarted. Raises KeyError."""

    def inject_fault(self, kind: FaultKind, target: str, seconds: float, key: str) -> None:
        """Begin a fault, which ends by itself. Raises KeyError, CommandRejected."""

    def end_fault(self, target: str) -> None:
        """End the fault on a server or worker now. Raises CommandRejected if there is none."""


class ControlServer:
    """Listens from `open` to `close`."""

    def __init__(self, supervisor: SupervisorControls) -> None:
        self._supervisor = supervisor
        self._folder: Path | None = None
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    @property
    def address(self) -> str | None:
        """The socket's path; None if it does not listen."""
        return str(self._folder / "control") if self._folder is not None else None

    def open(self) -> None:
        """Listen in a new temporary folder: a socket's path has at most 107 bytes, and a home's may be longer."""
        self._folder = Path(tempfile.mkdtemp(prefix="filemill-"))
        self._server = _Server(str(self._folder / "control"), _handler(self.execute))
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="control", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def execute(self, line: bytes) -> SupervisorResponse:
        """Execute the command in a line of JSON. Never raises."""
        try:
            return SupervisorResponse(self._call(msgspec.json.decode(line, type=SupervisorCommand)))
        except (ValueError, KeyError, OSError, RecursionError) as error:
            message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
            return SupervisorResponse(error=message, code=_code(error))

    def _call(self, command: SupervisorCommand) -> list[str]:
        match command.action:
            case "scale":
                return self._supervisor.scale(command.role, command.count)
            case "stop":
                self._supervisor.stop_worker(command.worker)
            case "kill":
                self._supervisor.kill_worker(command.worker)
            case "fault":
                self._supervisor.inject_fault(command.fault, command.target, command.seconds, command.key)
            case "end-fault":
                self._supervisor.end_fault(command.target)
        return []


def _code(error: Exception) -> CommandRejection:
    match error:
        case CommandRejected():
            return error.code
        case KeyError():
            return CommandRejection.UNKNOWN_TARGET
        case msgspec.DecodeError() | RecursionError():
            return CommandRejection.MALFORMED
        case ValueError():
            return CommandRejection.INVALID_VALUE
    return CommandRejection.FAILED


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


def _handler(execute: Callable[[bytes], SupervisorResponse]) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        timeout = READ_SECONDS

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # a client may disconnect, or send nothing
                response = execute(self.rfile.readline(COMMAND_MAX_BYTES))
                self.wfile.write(msgspec.json.encode(response) + b"\n")

    return Handler
