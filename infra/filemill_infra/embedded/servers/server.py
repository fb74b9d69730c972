"""The base class of the three servers: start, probe, stop, kill, suspend."""

import functools
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import psutil

from filemill.runtime.stack_state import ProcessRef, ServerState
from filemill_infra.embedded import logs
from filemill_infra.embedded.credentials import Credentials, credentials_of
from filemill_infra.embedded.errors import CancelledError, PortTakenError, StartError
from filemill_infra.embedded.ports import LOOPBACK, Port
from filemill_infra.embedded.processes import signals
from filemill_infra.embedded.processes.commands import Command, ServerContext, spawn

START_SECONDS = 60.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
_PORT_ATTEMPTS = 5
_BIND_FAILURES = ("address already in use", "is not available on")


class Server(ABC):
    """A server process on the loopback address. Safe to use from several threads.

    `wanted` says whether it should be running: True after `start`, False after `stop` and `kill`. The supervisor
    restarts servers that are wanted and not alive, so a server killed by `kill` stays down.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    required_ports: ClassVar[Sequence[Port]]

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.folder = context.home / self.name
        self.log_path = context.home / "logs" / f"{self.name}.log"
        self.wanted = False
        self.starting = False
        self._ports: dict[str, int] = {}
        self._was_ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._ref: ProcessRef | None = None
        self._lock = threading.RLock()

    @property
    @abstractmethod
    def version(self) -> str:
        """The server's version."""

    @property
    @abstractmethod
    def port(self) -> int:
        """The port for clients. The first start allocates it; it does not change later."""

    @property
    def address(self) -> str:
        """The address for clients, host:port."""
        return f"{LOOPBACK}:{self.port}"

    @functools.cached_property
    def credentials(self) -> Credentials:
        """The credentials of this home."""
        return credentials_of(self.context.home, reference=self.context.reference_credentials)

    @property
    def pid(self) -> int | None:
        """The process id, None if it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def state(self) -> ServerState | None:
        """Its entry in the state file: the last process if it is down, None before the first start."""
        if self._ref is None:
            return None
        return ServerState(
            name=self.name, address=self.address, version=self.version, process=self._ref, log=str(self.log_path)
        )

    @abstractmethod
    def settings(self) -> dict[str, str | int]:
        """Its address and credentials, as values of `filemill.config.settings.Settings`."""

    @abstractmethod
    def prepare(self) -> None:
        """Prepare a start, such as its data folder. It can be repeated after an interruption at any point."""

    @abstractmethod
    def command(self) -> Command:
        """The command that runs it on the allocated ports."""

    @abstractmethod
    def probe(self) -> str | None:
        """Send a request in its own protocol; None if it is ready, otherwise the problem. Takes under a second."""

    def after_start(self) -> None:  # noqa: B027 - optional
        """Finish a start when the server is ready. It can be repeated. Raises StartError."""

    def raise_if_cancelled(self) -> None:
        """Raise CancelledError if the start is cancelled, during long preparations."""
        if self.context.cancelled.is_set():
            raise CancelledError

    def is_alive(self) -> bool:
        """Whether its process runs, even if it is suspended."""
        return self.pid is not None

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start it, unless it runs, and wait until it is ready. Raises StartError, CancelledError."""
        with self._lock:
            self.starting, self.wanted = True, True
            try:
                self._reap()
                if self._process is None:
                    self.prepare()
                    self._start_with_port_retries(time.monotonic() + seconds)
            except OSError as error:
                raise StartError(
                    f"{self.name} could not be started: {error.strerror or error}",
                    where=str(error.filename or self.folder),
                    advice="is the disk full, or the folder not writable?",
                ) from error
            finally:
                self.starting = False

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Send its stop signal; kill it if it has not ended after `seconds`."""
        self.wanted = False
        with self._lock:
            root = self._main_process()
            if root is not None:
                signals.send(root, self.stop_signal)
                signals.resume(root)
                self._wait_exit(root, seconds)
            self._reap()

    def kill(self) -> None:
        """Kill it and all its descendants."""
        self.wanted = False
        with self._lock:
            root = self._main_process()
            if root is not None:
                self._kill(root)
            self._reap()

    def suspend(self) -> None:
        """Suspend all its processes: connections stay open and requests get no answer."""
        with self._lock:
            if root := self._main_process():
                signals.suspend(root)

    def resume(self) -> None:
        """Resume after `suspend`."""
        with self._lock:
            if root := self._main_process():
                signals.resume(root)

    def _start_with_port_retries(self, deadline: float) -> None:
        for attempt in range(_PORT_ATTEMPTS):
            try:
                return self._start_once(deadline)
            except PortTakenError:
                # A server that has been up keeps its port, because clients know it.
                if self._was_ready or attempt == _PORT_ATTEMPTS - 1:
                    raise
                self._ports = {}
        return None

    def _start_once(self, deadline: float) -> None:
        if not self._ports:
            self._ports = self.context.ports.allocate(self.name, self.required_ports)
        written = logs.size(self.log_path)
        ready = False
        try:
            self._spawn()
            self._wait_until_ready(deadline, written)
            self.after_start()
            ready = True
        finally:
            if not ready:
                if root := self._main_process():
                    self._kill(root)
                self._reap()
        self._was_ready = True
        self.context.ports.save(self.name)

    def _spawn(self) -> None:
        self._process = spawn(self.context, self.command(), self.log_path, self.stop_signal)
        self._ref = ProcessRef.of(self._process.pid)

    def _wait_until_ready(self, deadline: float, written: int) -> None:
        problem: str | None = "it does not listen yet"
        while time.monotonic() < deadline:
            if self.context.cancelled.wait(_POLL_SECONDS):
                raise CancelledError
            if not self.is_alive():
                raise self._exit_error(written)
            if self._listens():
                problem = self.probe()
                if problem is None:
                    return
        raise StartError(
            f"{self.name} was not ready in time",
            where=f"{self.address}: {problem}",
            log=logs.tail(self.log_path, since=written),
            advice=f"see {self.log_path}; on a slow or busy machine, try again.",
        )

    def _exit_error(self, written: int) -> StartError:
        lines = logs.tail(self.log_path, lines=60, since=written)
        code = self._process.returncode if self._process else None
        if any(failure in line.lower() for line in lines for failure in _BIND_FAILURES):
            return PortTakenError(
                f"{self.name} could not listen: a port is already in use",
                where=", ".join(f"{name} {LOOPBACK}:{port}" for name, port in self._ports.items()),
                log=lines[-20:],
                advice="stop the process that uses the port, then try again.",
            )
        return StartError(
            f"{self.name} ended during its start, with code {code}",
            where=str(self.folder),
            log=lines[-20:],
            advice=f"see {self.log_path}.",
        )

    def _listens(self) -> bool:
        """Whether this process listens on the port, and not another that has bound it before."""
        root = self._main_process()
        try:
            connections = root.net_connections("tcp4") if root else []
        except psutil.AccessDenied:
            return True  # not known on this system; the probe checks it
        except psutil.Error:
            return False
        return any(one.status == psutil.CONN_LISTEN and one.laddr.port == self.port for one in connections)

    def _main_process(self) -> psutil.Process | None:
        pid = self.pid
        try:
            return psutil.Process(pid) if pid is not None else None
        except psutil.NoSuchProcess:
            return None

    def _wait_exit(self, root: psutil.Process, seconds: float) -> None:
        assert self._process is not None
        members = signals.family(root)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._kill(root)
        signals.kill(signals.wait_ended(members, 1.0))

    def _kill(self, root: psutil.Process) -> None:
        assert self._process is not None
        members = signals.family(root)
        self._process.kill()
        self._process.wait()
        signals.kill(members)

    def _reap(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.context.on_exit(self._process.pid)
            self._process = None
