"""The processes of an arm: the pipeline's own by their command, and pieces of work that begin on a word."""

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

# Above what a busy machine needs to import the packages and to join a group.
START_SECONDS = 90.0
REAP_SECONDS = 10.0
TAIL_LINES = 15

# Names of processes are used once: what an earlier one of a world said must not count for a later one.
_numbers = itertools.count(1)


class ProcessFailed(Exception):
    """A process of an arm ended, or was silent, where it should have worked; the text has the end of its log."""


class BenchmarkProcess:
    """One process. What it prints are JSON documents, one a line; everything else goes to its log."""

    def __init__(self, name: str, argv: list[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self._log = log
        self.owned: list[int] = []  # the partitions that it said it has
        self._said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                text=True,
                # As the stack starts its workers: on Linux each session may have its own share of the cores.
                start_new_session=True,
            )
        threading.Thread(target=self._listen, name=f"listen-{name}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait until it has everything in hand and waits for the word. Raises Failed."""
        self._wait("ready", START_SECONDS)

    def start_work(self) -> None:
        """Give it the word."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def wait_done(self, seconds: float) -> dict[str, Any]:
        """Wait until its work is done; returns what it found. Raises Failed."""
        return self._wait("done", seconds)

    def kill(self) -> None:
        """End it, and wait until it is gone: its world goes next."""
        if self.alive:
            self._process.kill()
        self._process.wait(REAP_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def _wait(self, event: str, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            try:
                document = self._said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ProcessFailed(f"{self.name} was not {event} after {seconds:g} s\n{self.tail()}") from None
            if document is None:
                raise ProcessFailed(f"{self.name} ended before it was {event}\n{self.tail()}")
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
                    self._said.put(document)
        except ValueError:
            pass  # closed while it was read
        self._said.put(None)


class WorkerProcesses:
    """All processes of an arm in one world. Leaving the context kills them, each by its pid."""

    def __init__(self, settings: Settings, folder: Path, on_spawn: Callable[[int], None]) -> None:
        self._settings = settings
        self._folder = folder
        self._on_spawn = on_spawn
        self._members: list[BenchmarkProcess] = []

    def start_task(self, task: str, files: int = 0, *rate: float, **given: object) -> BenchmarkProcess:
        """Start a piece of work of `benchmarks.work`; a service works at once. Returns at once."""
        arguments = [task, str(files), *map(str, rate)]
        return self._start(task, [sys.executable, "-m", "benchmarks.work", *arguments], given)

    def start_role(self, role: str, **given: object) -> BenchmarkProcess:
        """Start one of the pipeline's own processes, `filemill run ROLE`. Returns at once."""
        return self._start(role, [sys.executable, "-m", "filemill", "run", role], given)

    @property
    def names(self) -> list[str]:
        """The names of all, which are their worker ids."""
        return [member.name for member in self._members]

    def processes(self) -> list[psutil.Process]:
        """Those that live. Raises Failed where one has ended."""
        for member in self._members:
            if not member.alive:
                raise ProcessFailed(f"{member.name} has ended\n{member.tail()}")
        return [psutil.Process(member.pid) for member in self._members]

    def _start(self, name: str, argv: list[str], given: dict[str, object]) -> BenchmarkProcess:
        name = f"{name}-{next(_numbers)}"
        environment = os.environ | as_environment(self._settings)
        environment |= {f"FILEMILL_{key.upper()}": str(value) for key, value in given.items()}
        environment |= {"FILEMILL_WORKER_ID": name, "PYTHONUNBUFFERED": "1"}
        member = BenchmarkProcess(name, argv, environment, self._folder / f"{name}.log")
        self._on_spawn(member.pid)
        self._members.append(member)
        return member

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for member in self._members:
                error.add_note(f"--- {member.name}\n{member.tail()}")
        for member in self._members:
            member.kill()
