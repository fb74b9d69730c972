"""The supervisor's side of the watchdog: start it, tell it of children, replace it when it dies."""

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
    """Holds the watchdog of one stack. Safe to use from several threads."""

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
        """Start the watchdog; everything named before is named to it too."""
        with self._lock:
            self._start()

    def watch(self, pid: int, stop_signal: int) -> None:
        """Have `pid` stopped by `stop_signal` should this process die."""
        with self._lock:
            self._watched[pid] = stop_signal
            self._send(f"watch {pid} {stop_signal}")

    def release(self, pid: int) -> None:
        """Forget `pid`: it has ended."""
        with self._lock:
            self._watched.pop(pid, None)
            self._send(f"release {pid}")

    def restart_if_dead(self) -> bool:
        """Replace a watchdog that died; True where that was needed."""
        with self._lock:
            if self._process is None or self._process.poll() is None:
                return False
            self._start()
            return True

    def close(self) -> None:
        """End the watchdog: nothing is left to guard."""
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
        # The package is found wherever this one was, be it installed or not.
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
        # A watchdog that just died hears it from `ensure`, which names all again.
        with contextlib.suppress(OSError):
            os.write(self._process.stdin.fileno(), line.encode() + b"\n")
