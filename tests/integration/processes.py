"""Worker processes for the tests: started by the installed command, and always killed at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from filemill.config.settings import Settings, as_environment

POLL_SECONDS = 0.03
# More than a busy machine needs to import the package and to join a group.
START_SECONDS = 40.0
REAP_SECONDS = 10.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float, description: str, every: float = POLL_SECONDS) -> T:
    """Poll until the condition is true, and return its value; after `seconds`, fail with the description."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {description} (last value: {value!r})")
        time.sleep(every)


class Process:
    """A process of a test, with its output in a file."""

    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment)
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Send SIGKILL, and wait until it has ended."""
        self._process.kill()
        self._process.wait(REAP_SECONDS)

    def suspend(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def send_stop_signal(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait_for_exit(self, seconds: float) -> int:
        """Wait for its end, and return the exit code."""
        wait_until(lambda: not self.alive, seconds, f"{self.name} has ended\n{self.tail()}")
        assert self._process.returncode is not None
        return self._process.returncode

    def terminate(self, seconds: float) -> int:
        """Send SIGTERM; returns the exit code."""
        self.send_stop_signal()
        return self.wait_for_exit(seconds)

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Its log lines as documents, optionally of one event only. Other output is left out."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                document = json.loads(line)
            except ValueError:
                continue
            if isinstance(document, dict) and (event is None or document.get("event") == event):
                found.append(document)
        return found

    def has_logged(self, event: str, **details: object) -> bool:
        """Whether it has logged the event with these details."""
        return any(all(line.get(name) == value for name, value in details.items()) for line in self.lines(event))

    def tail(self, count: int = 15) -> str:
        """The last lines of its output, for error messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


class ProcessGroup:
    """The processes of one pipeline. Leaving the context kills those that still run.

    `on_spawn` is called with each pid, so that the watchdog kills it if the tests die.
    """

    def __init__(self, settings: Settings, folder: Path, on_spawn: Callable[[int], None]) -> None:
        self.settings = settings
        self._folder = folder
        self._on_spawn = on_spawn
        self.processes: list[Process] = []

    def start(self, role: str, worker_id: str | None = None, **given: object) -> Process:
        """Start `filemill run ROLE` with the pipeline's settings and the `given` ones. Returns at once."""
        name = worker_id or f"{role}-{sum(member.name.startswith(role) for member in self.processes) + 1}"
        settings = {**as_environment(self.settings), "FILEMILL_LOG_FORMAT": "json", "FILEMILL_WORKER_ID": name}
        settings |= {f"FILEMILL_{key.upper()}": str(value) for key, value in given.items()}
        return self.run(name, [sys.executable, "-m", "filemill", "run", role], settings)

    def run(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Start another program. Returns at once."""
        log = self._folder / f"{name}-{len(self.processes)}.log"
        process = Process(name, argv, os.environ | environment, log)
        self._on_spawn(process.pid)
        self.processes.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            if process.alive:
                process.kill()
        if error is not None:  # pytest shows the output; the folder is removed later
            for process in self.processes:
                print(f"--- {process.name} (exit code {process.code})\n{process.tail()}")
