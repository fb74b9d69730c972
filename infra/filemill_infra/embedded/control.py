"""The supervisor's ear: a Unix socket on which other processes of this user may direct workers and inject faults.

It lies in a folder of mode 0700, so the file system decides who may connect. `filemill.runtime.supervisor_client` is
the client.
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

from filemill.runtime.supervisor_client import FaultKind, SupervisorCommand, SupervisorResponse

LINE_MAX_BYTES = 4096
READ_SECONDS = 5.0


class SupervisorControls(Protocol):
    """The part of the supervisor that takes orders."""

    def scale(self, role: str, count: int) -> list[str]:
        """Have `count` workers of `role`."""

    def stop_worker(self, worker_id: str) -> None:
        """Stop one for good."""

    def kill_worker(self, worker_id: str) -> None:
        """Kill one; it is started again."""

    def inject_fault(self, kind: FaultKind, target: str, seconds: float, key: str) -> None:
        """Begin a fault; it is undone by itself."""


class ControlServer:
    """Listens from `open` to `close`."""

    def __init__(self, supervisor: SupervisorControls) -> None:
        self._supervisor = supervisor
        self._folder: Path | None = None
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    @property
    def address(self) -> str | None:
        """Where it listens; None before and after."""
        return str(self._folder / "control") if self._folder is not None else None

    def open(self) -> None:
        """Listen. In a temporary folder, since a socket's path may have 107 bytes only and a home's can be longer."""
        self._folder = Path(tempfile.mkdtemp(prefix="filemill-"))
        self._server = _Server(str(self._folder / "control"), _handler(self.execute))
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="control", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def execute(self, line: bytes) -> SupervisorResponse:
        """Do as a line says. Never raises."""
        try:
            order = msgspec.json.decode(line, type=SupervisorCommand)
            match order.action:
                case "scale":
                    return SupervisorResponse(self._supervisor.scale(order.role, order.count))
                case "stop":
                    self._supervisor.stop_worker(order.worker)
                case "kill":
                    self._supervisor.kill_worker(order.worker)
                case "fault":
                    self._supervisor.inject_fault(order.fault, order.target, order.seconds, order.key)
        except KeyError as error:
            return SupervisorResponse(error=str(error.args[0]))
        except (ValueError, OSError, RecursionError) as error:  # a line that is no order is a ValueError, too
            return SupervisorResponse(error=str(error))
        return SupervisorResponse()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


def _handler(execute: Callable[[bytes], SupervisorResponse]) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        timeout = READ_SECONDS

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # who asks may hang up, or never say anything
                answer = execute(self.rfile.readline(LINE_MAX_BYTES))
                self.wfile.write(msgspec.json.encode(answer) + b"\n")

    return Handler
