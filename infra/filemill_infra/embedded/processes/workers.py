"""Worker processes: their specification, and a process with its restarts."""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from filemill.config import rest_server
from filemill.config.settings import HOME_VARIABLE, PREFIX
from filemill.runtime.stack_state import ProcessRef, WorkerState
from filemill_infra.embedded import logs
from filemill_infra.embedded.ports import LOOPBACK
from filemill_infra.embedded.processes import signals

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# A worker that ran for this long was healthy: after its next death, the delays start again from the first.
HEALTHY_SECONDS = 20.0
# Consecutive deaths after which a worker is reported as failing.
FAILING_AFTER = 3

# Variables with addresses and credentials of servers: inherited ones would override those of this stack.
_REFERENCE_NAMES = ("KAFKA_BROKER", "S3_ENDPOINT", "S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION")
# And those of the person who starts the stack: no worker needs that person's token.
_FOREIGN_NAMES = {*_REFERENCE_NAMES, *rest_server.VARIABLES, signals.MARK}
_REFERENCE_PREFIXES = ("DATABASE_", "AWS_ENDPOINT_URL", "AWS_ACCESS_", "AWS_SECRET_", "AWS_SESSION_", "AWS_PROFILE")
# Database roles that no worker uses: the owner and the reader.
_ADMIN_PREFIXES = ("database_owner_", "database_reader_")


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """A role, its command, and the number of its processes: role-1, role-2, …; `{id}` in `argv` is the worker id.

    A new process gets the lowest free number; with `unique_ids`, the lowest number that was never used, so that an id
    in events or logs identifies one process.
    """

    role: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    count: int = 1
    unique_ids: bool = False
    stop_signal: int = signal.SIGTERM


@dataclass(frozen=True, kw_only=True)
class ProcessEvent:
    """An event of a process of the stack; `log` is the end of its log."""

    kind: Literal["note", "died", "failing", "restarted", "watchdog"]
    name: str
    text: str
    log: tuple[str, ...] = ()


class RestartBackoff:
    """The delay before a restart: it doubles with each death up to a limit; a healthy run resets it."""

    def __init__(self) -> None:
        self.deaths_in_a_row = 0

    def next_delay(self, run_seconds: float) -> float:
        """Seconds to wait after a process has died that had run for `run_seconds`."""
        self.deaths_in_a_row = 1 if run_seconds >= HEALTHY_SECONDS else self.deaths_in_a_row + 1
        delay: float = FIRST_DELAY_SECONDS * 2 ** min(self.deaths_in_a_row - 1, 16)
        return min(delay, LONGEST_DELAY_SECONDS)


def worker_environment(
    settings: Mapping[str, str | int | float], home: Path, inherited: Mapping[str, str]
) -> dict[str, str]:
    """A worker's environment: inherited variables without other servers' addresses, and the stack's settings."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in _FOREIGN_NAMES and not name.startswith(_REFERENCE_PREFIXES)
    }
    for name in ("NO_PROXY", "no_proxy"):  # proxies are not for this machine
        kept[name] = ",".join(part for part in (kept.get(name, ""), LOOPBACK, "localhost") if part)
    given = {
        f"{PREFIX}{name.upper()}": str(value)
        for name, value in settings.items()
        if not name.startswith(_ADMIN_PREFIXES)
    }
    return kept | given | {HOME_VARIABLE: str(home), "PYTHONUNBUFFERED": "1"}


class WorkerProcess:
    """One supervised process. Not thread-safe: its pool holds a lock."""

    def __init__(self, spec: WorkerSpec, worker_id: str, log: Path) -> None:
        self.spec = spec
        self.id = worker_id
        self.log = log
        self.wanted = True
        self.restarts = 0
        self.retry_at: float | None = None
        self._backoff = RestartBackoff()
        self._started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._ref: ProcessRef | None = None

    @property
    def state(self) -> WorkerState | None:
        """Its entry in the state file: the last process if it is down, None before the first."""
        if self._ref is None:
            return None
        return WorkerState(
            role=self.spec.role, id=self.id, process=self._ref, log=str(self.log), restarts=self.restarts
        )

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def spawn(self, environment: Mapping[str, str]) -> int:
        """Start its process in its own session, so that Ctrl-C in a terminal does not reach it; returns the pid."""
        argv = [part.replace("{id}", self.id) for part in self.spec.argv]
        with logs.open_log(self.log) as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment, f"{PREFIX}WORKER_ID": self.id, **self.spec.env},
                umask=signals.UMASK,
                start_new_session=True,
            )
        self._ref = ProcessRef.of(self._process.pid)
        self._started_at = time.monotonic()
        self.retry_at = None
        return self._process.pid

    def check_exit(self) -> ProcessEvent | None:
        """If its process has died unexpectedly, schedule a restart and return the event; None otherwise."""
        if self._process is None or self._process.poll() is None or self.retry_at is not None:
            return None
        delay = self._backoff.next_delay(time.monotonic() - self._started_at)
        self.retry_at = time.monotonic() + delay
        code, deaths = self._process.returncode, self._backoff.deaths_in_a_row
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        return ProcessEvent(
            kind="failing" if deaths >= FAILING_AFTER else "died",
            name=self.id,
            text=f"{self.id} ended {how}, {deaths} in a row; restart in {delay:g} s",
            log=tuple(logs.tail(self.log)),
        )

    def schedule_retry(self) -> None:
        """Schedule a restart after a process could not be started."""
        self.retry_at = time.monotonic() + self._backoff.next_delay(0)

    def send(self, number: int) -> None:
        """Send its process a signal; none if it does not run."""
        if self._process is not None:
            self._process.send_signal(number)

    def end(self) -> None:
        """Send its stop signal, and do not restart it."""
        self.wanted = False
        self.send(self.spec.stop_signal)
        self.send(signal.SIGCONT)  # a suspended process handles no other signal

    def reap(self, seconds: float) -> None:
        """Wait for its end; kill it and its descendants after `seconds`."""
        if self._process is None:
            return
        try:
            members = signals.family(psutil.Process(self._process.pid))
        except psutil.NoSuchProcess:
            members = []
        try:
            self._process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        signals.kill(member for member in members if not signals.ended(member))
