"""The supervisor's client of the watchdog: start it, register processes, restart it if it dies."""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from filemill_infra.embedded import logs
from filemill_infra.embedded.processes.signals import MARK, UMASK

_CLOSE_SECONDS = 2.0
_ROOT = Path(__file__).resolve().parents[3]


class Watchdog:
    """The watchdog of one stack. Safe to use from several threads."""

    def __init__(self, log: Path, mark: str) -> None:
        self._log = log
        self._mark = mark
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._watched: dict[int, int] = {}

    @property
    def pid(self) -> int | None:
        """The watchdog's process id."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the watchdog and register all watched processes."""
        with self._lock:
            self._start()

    def watch(self, pid: int, stop_signal: int) -> None:
        """Have `pid` stopped by `stop_signal` if this process dies."""
        with self._lock:
            self._watched[pid] = stop_signal
            self._send(f"watch {pid} {stop_signal}")

    def release(self, pid: int) -> None:
        """Unregister `pid`, which has ended."""
        with self._lock:
            self._watched.pop(pid, None)
            self._send(f"release {pid}")

    def restart_if_dead(self) -> bool:
        """Restart the watchdog if it has died; returns whether it had."""
        with self._lock:
            if self._process is None or self._process.poll() is None:
                return False
            self._start()
            return True

    def close(self) -> None:
        """End the watchdog."""
        with self._lock:
            process, self._process = self._process, None
            if process is None or process.stdin is None:
                return
            with contextlib.suppress(OSError):
                os.write(process.stdin.fileno(), b"close\n")
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(_CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        # The child finds this package even if it is not installed.
        path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if part)
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        with logs.open_log(self._log) as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "filemill_infra.embedded.processes.watchdog",
                    str(os.getpid()),
                    self._mark,
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**environment, "PYTHONPATH": path},
                bufsize=0,
                umask=UMASK,
                start_new_session=True,
            )
        for pid, number in self._watched.items():
            self._send(f"watch {pid} {number}")

    def _send(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        # If it has just died, `restart_if_dead` registers all processes again.
        with contextlib.suppress(OSError):
            os.write(self._process.stdin.fileno(), line.encode() + b"\n")
