"""The installed command, and a stack that it has started."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

COMMAND = [sys.executable, "-m", "filemill"]
# Enough for a busy machine; the servers format their data in a new home first.
UP_SECONDS = 90.0
# The limit for Ctrl-C, and for the watchdog after a crash.
GONE_SECONDS = 30.0  # for busy machines
# The time of `--version` on a core without other load.
USUAL_START_SECONDS = 2.0
POLL_SECONDS = 0.05


def filemill(
    *arguments: str, home: Path, environment: Mapping[str, str] | None = None, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. The caller checks the exit code."""
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "FILEMILL_HOME": str(home), **(environment or {})},
    )


def answer(*arguments: str, home: Path, timeout: float = 60.0) -> Any:
    """The JSON that a command prints; the command must succeed."""
    run = filemill(*arguments, "--json", home=home, timeout=timeout)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def slowdown() -> float:
    """The factor by which load slows this machine down now, at least 1; it scales limits in seconds."""
    began = time.monotonic()
    subprocess.run([*COMMAND, "--version"], check=True, capture_output=True, timeout=120)
    return max(1.0, (time.monotonic() - began) / USUAL_START_SECONDS)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(POLL_SECONDS)


class Stack:
    """`filemill up`, running in a home of the test."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.page = ""
        self._log = home.with_suffix(".log")
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [*COMMAND, "up", "--home", str(home), "--port", "0", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "FILEMILL_HOME": str(home)},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = answer("status", home=self.home)
        return found

    def wait_until_ready(self) -> "Stack":
        def ready() -> bool:
            assert self._process.poll() is None, self.output()
            return "filemill is up" in self.output()

        wait_until(ready, UP_SECONDS, f"the stack is up\n{self.output()}")
        self.page = str(self.status()["page"])
        return self

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def ended(self, seconds: float = GONE_SECONDS) -> int:
        """Wait for the end of the command itself; its exit code."""
        wait_until(lambda: self._process.poll() is not None, seconds, f"`filemill up` has ended\n{self.output()}")
        code = self._process.returncode
        assert code is not None
        return code

    def processes(self) -> list[psutil.Process]:
        """The command and all processes that it has started, whatever their parent is now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid == self.pid or str(self.home) in _origin_of(process):
                    found.append(process)
        return [process for process in found if process.pid != os.getpid() and process.is_running()]

    def close(self) -> None:
        """End all processes that are left, by pid."""
        if self._process.poll() is None:
            self.send(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GONE_SECONDS + 5)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait(GONE_SECONDS)


def _origin_of(process: psutil.Process) -> str:
    """Environment, command line and folder of a process, as text: they tell to which stack it belongs."""
    if process.status() == psutil.STATUS_ZOMBIE:
        return ""
    return " ".join([*process.environ().values(), *process.cmdline(), process.cwd()])


@contextlib.contextmanager
def stack_in(home: Path, *arguments: str) -> Iterator[Stack]:
    """A running stack; no process of it is left afterwards."""
    with contextlib.closing(Stack(home, *arguments)) as stack:
        yield stack.wait_until_ready()


def create(page: str, title: str, description: str = "", headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Create a file over REST."""
    body = {"title": title, "description": description}
    answer = httpx.post(f"{page}/api/files", json=body, headers=headers, timeout=10)
    assert answer.is_success, answer.text
    row: dict[str, Any] = answer.json()
    return row


def wait_for_file(
    page: str, file_id: int, seconds: float = 30.0, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The file's row, once it is completed."""
    row: dict[str, Any] = {}

    def completed() -> bool:
        nonlocal row
        row = httpx.get(f"{page}/api/files/{file_id}", headers=headers, timeout=10).raise_for_status().json()
        return bool(row["status"] == "completed")

    wait_until(completed, seconds, f"file {file_id} is completed: {row}")
    return row
