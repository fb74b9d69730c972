"""The processes of an arm: roles of the pipeline, and tasks that start on a message."""

import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from filemill.config.settings import Settings, as_environment

# More than a busy machine needs to import the packages and to join a group.
START_SECONDS = 90.0
REAP_SECONDS = 10.0
TAIL_LINES = 15

# Names are not reused: events of an earlier process must not count for a later one.
_numbers = itertools.count(1)


class ProcessFailed(Exception):
    """A process of an arm ended early or did not report in time. The text includes the end of its log."""


class BenchmarkProcess:
    """One process. It prints JSON documents, one per line; other output goes to its log."""

    def __init__(self, name: str, argv: list[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self._log = log
        self.owned: list[int] = []  # the partitions that it reported as its own
        self._documents: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                text=True,
                # As the supervisor does. On Linux each session may have its own share of the cores.
                start_new_session=True,
            )
        threading.Thread(target=self._listen, name=f"listen-{name}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is running."""
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait until it has prepared its task. Raises ProcessFailed."""
        self._wait("ready", START_SECONDS)

    def start_work(self) -> None:
        """Start the task."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def wait_done(self, seconds: float) -> dict[str, Any]:
        """Wait until its task is done; returns the result. Raises ProcessFailed."""
        return self._wait("done", seconds)

    def kill(self) -> None:
        """Kill it, and wait until it has ended, because its pipeline is removed next."""
        if self.alive:
            self._process.kill()
        self._process.wait(REAP_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def log_tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def _wait(self, event: str, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            try:
                document = self._documents.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ProcessFailed(f"{self.name} was not {event} after {seconds:g} s\n{self.log_tail()}") from None
            if document is None:
                raise ProcessFailed(f"{self.name} ended before it was {event}\n{self.log_tail()}")
            if document.get("event") == event:
                return document

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                try:
                    document = json.loads(line)
                except ValueError:
                    continue
                if isinstance(document, dict):
                    self.owned = document.get("owned", self.owned)
                    self._documents.put(document)
        except ValueError:
            pass  # closed while it was being read
        self._documents.put(None)


class WorkerProcesses:
    """All processes of an arm in one pipeline. Leaving the context kills each of them."""

    def __init__(self, settings: Settings, folder: Path, on_spawn: Callable[[int], None]) -> None:
        self._settings = settings
        self._folder = folder
        self._on_spawn = on_spawn
        self._processes: list[BenchmarkProcess] = []

    def start_task(self, task: str, files: int = 0, *rate: float, **given: object) -> BenchmarkProcess:
        """Start a task of `benchmarks.work`. A task that is a service runs immediately."""
        arguments = [task, str(files), *map(str, rate)]
        return self._start(task, [sys.executable, "-m", "benchmarks.work", *arguments], given)

    def start_role(self, role: str, **given: object) -> BenchmarkProcess:
        """Start a role of the pipeline, `filemill run ROLE`."""
        return self._start(role, [sys.executable, "-m", "filemill", "run", role], given)

    @property
    def names(self) -> list[str]:
        """The names of all processes, which are their worker ids."""
        return [process.name for process in self._processes]

    def live_processes(self) -> list[psutil.Process]:
        """The processes, for psutil. Raises ProcessFailed if one has ended."""
        for process in self._processes:
            if not process.alive:
                raise ProcessFailed(f"{process.name} has ended\n{process.log_tail()}")
        return [psutil.Process(process.pid) for process in self._processes]

    def _start(self, name: str, argv: list[str], given: dict[str, object]) -> BenchmarkProcess:
        name = f"{name}-{next(_numbers)}"
        environment = os.environ | as_environment(self._settings)
        environment |= {f"FILEMILL_{key.upper()}": str(value) for key, value in given.items()}
        environment |= {"FILEMILL_WORKER_ID": name, "PYTHONUNBUFFERED": "1"}
        process = BenchmarkProcess(name, argv, environment, self._folder / f"{name}.log")
        self._on_spawn(process.pid)
        self._processes.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for process in self._processes:
                error.add_note(f"--- {process.name}\n{process.log_tail()}")
        for process in self._processes:
            process.kill()
