"""A stack on this machine: starts, monitors and stops the servers and the workers.

    supervisor = Supervisor(home, [WorkerSpec(role="processor", argv=[…], count=2)], prepare=migrate_and_make_topics)
    supervisor.run()                          # until Ctrl-C, SIGTERM or request_stop()

    with Supervisor(home) as supervisor:      # or step by step, as in tests and notebooks
        supervisor.server("kafka").kill()     # it stays down until start()
        supervisor.scale("processor", 3)

All methods may be called from any thread. Other processes call some of them by `control.py`.
"""

import contextlib
import datetime as dt
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from filemill.runtime.process_history import PROCESSES_FILE
from filemill.runtime.stack_registry import register_stack, unregister_stack
from filemill.runtime.stack_state import FAULTS_FILE, ProcessRef, StackState, remove_state, write_state
from filemill.runtime.supervisor_client import CommandRejected, CommandRejection, FaultKind
from filemill_infra.embedded.control import ControlServer
from filemill_infra.embedded.down import stop_orphans
from filemill_infra.embedded.home import HomeLock, prepare_home
from filemill_infra.embedded.ports import PortAllocator
from filemill_infra.embedded.process_journal import ProcessJournal
from filemill_infra.embedded.processes import signals
from filemill_infra.embedded.processes.commands import ServerContext
from filemill_infra.embedded.processes.watchdog_client import Watchdog
from filemill_infra.embedded.processes.worker_pool import GRACE_SECONDS, WorkerPool
from filemill_infra.embedded.processes.workers import ProcessEvent, WorkerSpec, worker_environment
from filemill_infra.embedded.servers import jars
from filemill_infra.embedded.servers.group import EmbeddedServers
from filemill_infra.embedded.servers.kafka import Kafka
from filemill_infra.embedded.servers.postgres import Postgres
from filemill_infra.embedded.servers.seaweed import SeaweedFS
from filemill_infra.embedded.servers.server import START_SECONDS, Server

if TYPE_CHECKING:
    from filemill_infra.embedded.faults import FaultInjector

SERVERS = ("kafka", "postgres", "s3")
STOP_SECONDS = 9.3  # Ctrl-C takes at most 10 s
_LEAST_SERVER_SECONDS = 3.0
_TICK_SECONDS = 0.1
_TRIM_SECONDS = 20.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

StackSettings = dict[str, str | int | float]


class Supervisor:
    """One stack of one home folder, from `start` to `stop`; it cannot be started twice."""

    def __init__(
        self,
        home: Path,
        workers: Sequence[WorkerSpec] = (),
        *,
        servers: Sequence[str] = SERVERS,
        default_ports: bool = True,
        reference_credentials: bool = False,
        page: str | None = None,
        auth: str = "local",
        token: str | None = None,
        prepare: Callable[[StackSettings], None] = lambda _settings: None,
        report: Callable[[ProcessEvent], None] = lambda _event: None,
        progress: Callable[[jars.DownloadProgress], None] = lambda _progress: None,
        cache: Path | None = None,
    ) -> None:
        """Configure a stack; `start` starts it. `servers` are the names of the servers to run.

        `page` is the URL of the page, `auth` its mode of sign-in and `token` its launch token, for the state file.
        `prepare` is called when the servers are ready, before the workers start. Other threads call `report` for
        restarts and `progress` for the first download. Without `default_ports`, all ports are random. With
        `reference_credentials`, the servers use the published credentials of the reference design.
        """
        self.home = home
        self._specs = workers
        self._wanted_servers = servers
        self._default_ports = default_ports
        self._reference_credentials = reference_credentials
        self._page = page
        self._auth = auth
        self._token = token
        self._prepare = prepare
        self._on_report = report
        self._progress = progress
        self._cache = cache
        self._cancelled = threading.Event()
        self._stop_requested = threading.Event()
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self._state_lock = threading.Lock()
        self._state: StackState | None = None
        self._started_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self._own_ref = ProcessRef.of(os.getpid())
        self._interruptible = False
        self._signalled = False
        self._monitor: threading.Thread | None = None
        self._lock: HomeLock | None = None
        self._control = ControlServer(self)
        self._faults_lock = threading.Lock()
        self._faults: FaultInjector | None = None
        self._watchdog: Watchdog
        self._servers: EmbeddedServers
        self._workers: WorkerPool
        self._journal: ProcessJournal

    def start(self, seconds: float = START_SECONDS) -> StackState:
        """Start everything and return the state. On any error or interrupt, everything is stopped again.

        Raises HomeError, HomeInUseError, DownloadError, StartError, CancelledError, and what `prepare` raises.
        """
        self.home = prepare_home(self.home)
        self._assemble()
        self._lock = HomeLock(self.home)
        try:
            stop_orphans(self.home)
            self._journal.open()
            self._watchdog.start()
            self._servers.start(seconds)
            self._write_state()
            self._prepare(self._servers.settings())
            self._control.open()
            self._workers.start(self._environment())
            self._write_state()
            register_stack(self.home)
            # A daemon thread: if the main thread fails, the process must end, so that the watchdog stops the children.
            self._monitor = threading.Thread(target=self._watch, name="supervisor", daemon=True)
            self._monitor.start()
        except BaseException:
            self.stop()
            raise
        return self.state

    @property
    def state(self) -> StackState:
        """The current servers and workers."""
        return StackState(
            home=str(self.home),
            supervisor=self._own_ref,
            started_at=self._started_at,
            settings=self._servers.settings(),
            servers=self._servers.states(),
            workers=self._workers.states(),
            page=self._page,
            control=self._control.address,
            auth=self._auth,
            token=self._token,
        )

    @property
    def watchdog_pid(self) -> int | None:
        """The process id of the watchdog."""
        return self._watchdog.pid

    def server(self, name: str) -> Server:
        """The server `kafka`, `postgres` or `s3`. Raises KeyError."""
        return self._servers[name]

    def scale(self, role: str, count: int) -> list[str]:
        """Run `count` workers of `role`; returns their ids when surplus ones have ended. Raises ValueError."""
        ids = self._workers.scale(role, count)
        self._write_state()
        return ids

    def stop_worker(self, worker_id: str) -> None:
        """Stop one worker for good. Raises KeyError."""
        self._workers.stop_worker(worker_id)
        self._write_state()

    def kill_worker(self, worker_id: str, number: int = signal.SIGKILL, *, restart: bool = True) -> None:
        """Send a worker a signal. If it dies, it is restarted, unless `restart` is False. Raises KeyError."""
        self._workers.kill_worker(worker_id, number, restart=restart)

    def inject_fault(self, kind: FaultKind, target: str, seconds: float, key: str = "") -> None:
        """Begin a fault on a server or a worker and record it in the home's journal; it ends by itself.

        Raises KeyError for an unknown target, CommandRejected.
        """
        with self._faults_lock:
            if self._faults is None:
                # Imported here: most stacks never need it.
                from filemill_infra.embedded.faults import FaultInjector  # noqa: PLC0415

                self._faults = FaultInjector(self, self.home / FAULTS_FILE, self._cancelled)
        self._faults.begin(kind, target, seconds, key)

    def end_fault(self, target: str) -> None:
        """End the fault on a server or worker before its time is over. Raises CommandRejected if there is none."""
        with self._faults_lock:
            faults = self._faults
        if faults is None:
            raise CommandRejected(f"No fault is active on {target}", CommandRejection.NO_FAULT)
        faults.end(target)

    def watch(self, pid: int) -> None:
        """Have another process killed if the supervisor dies."""
        self._watchdog.watch(pid, signal.SIGKILL)

    def request_stop(self) -> None:
        """Make `run` or `run_forever` stop the stack; returns at once."""
        self._stop_requested.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the stack has stopped; False if it still runs after `timeout` seconds."""
        return self._stopped.wait(timeout)

    def run(self, on_ready: Callable[[StackState], None] = lambda _state: None, seconds: float = START_SECONDS) -> None:
        """Start, call `on_ready`, and stop at the first SIGINT, SIGTERM, SIGHUP or `request_stop`. For the main thread.

        A signal during the start or `on_ready` raises KeyboardInterrupt, after everything has been stopped. Signals
        during the stop have no effect.
        """
        former = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            self._interruptible = True
            on_ready(self.start(seconds))
            self._interruptible = False
            self.run_forever()
        finally:
            self._interruptible = False
            self.stop()
            for number, handler in former.items():
                signal.signal(number, handler)

    def run_forever(self) -> None:
        """Wait until a stop is requested, then stop."""
        try:
            # Short waits: signal handlers run between them.
            while not self._signalled and not self._stop_requested.wait(_TICK_SECONDS):
                pass
        finally:
            self.stop()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop all workers, then all servers, within `seconds` in total."""
        self._cancelled.set()
        self._stop_requested.set()
        with self._stopping:
            if self._stopped.is_set() or self._lock is None:
                return
            deadline = time.monotonic() + seconds
            self._control.close()
            if self._monitor is not None and self._monitor is not threading.current_thread():
                self._monitor.join()
            self._workers.stop(min(GRACE_SECONDS, max(seconds - _LEAST_SERVER_SECONDS, 0)))
            self._servers.stop(max(deadline - time.monotonic(), _LEAST_SERVER_SECONDS / 2))
            signals.kill(signals.marked(self._mark))
            self._watchdog.close()
            self._journal.close()
            remove_state(self.home)
            unregister_stack(self.home)
            self._lock.release()
            self._stopped.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _assemble(self) -> None:
        self._mark = f"{uuid.uuid4().hex}:{self.home}"
        self._watchdog = Watchdog(self.home / "logs" / "watchdog.log", self._mark)
        context = ServerContext(
            home=self.home,
            ports=PortAllocator(self.home, defaults=self._default_ports),
            mark=self._mark,
            reference_credentials=self._reference_credentials,
            cancelled=self._cancelled,
            on_spawn=self._watchdog.watch,
            on_exit=self._watchdog.release,
            report=lambda line: self._report(ProcessEvent(kind="note", name="stack", text=line)),
        )
        known: dict[str, Callable[[], Server]] = {
            "kafka": lambda: Kafka(context, cache=self._cache, progress=self._progress),
            "postgres": lambda: Postgres(context),
            "s3": lambda: SeaweedFS(context),
        }
        self._servers = EmbeddedServers([known[name]() for name in self._wanted_servers], self._report)
        self._journal = ProcessJournal(self.home / PROCESSES_FILE)
        self._workers = WorkerPool(self._specs, self.home / "logs", self._watchdog, self._report)

    def _environment(self) -> dict[str, str]:
        environment = worker_environment(self._servers.settings(), self.home, os.environ)
        return environment | {signals.MARK: self._mark}

    def _watch(self) -> None:
        trimmed = time.monotonic()
        while not self._cancelled.wait(_TICK_SECONDS):
            try:
                self._servers.tick()
                self._workers.tick()
                if self._watchdog.restart_if_dead():
                    self._report(
                        ProcessEvent(kind="watchdog", name="watchdog", text="the watchdog died and was restarted")
                    )
                if time.monotonic() - trimmed > _TRIM_SECONDS:
                    trimmed = time.monotonic()
                    self._servers.trim_logs()
                    self._workers.trim_logs()
                self._write_state()
            except Exception as error:  # noqa: BLE001 - for example a full disk; monitoring continues
                self._report(ProcessEvent(kind="failing", name="supervisor", text=f"{type(error).__name__}: {error}"))

    def _report(self, event: ProcessEvent) -> None:
        # A failing listener, such as one that prints to a closed terminal, must not end the monitoring.
        with contextlib.suppress(Exception):
            self._on_report(event)
        self._journal.report(event)

    def _write_state(self) -> None:
        """Write the state file if the state has changed."""
        with self._state_lock:
            state = self.state
            if state != self._state and not self._stopped.is_set():
                write_state(state)
                self._state = state
                self._journal.observe(state)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Setting an event here could deadlock: this thread may hold the lock of that event.
        if self._interruptible:
            self._interruptible = False
            raise KeyboardInterrupt
        self._signalled = True
