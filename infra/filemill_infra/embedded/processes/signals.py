"""Signals to processes and their descendants. Imports only the standard library and psutil: the watchdog uses it."""

import contextlib
import signal
import time
from collections.abc import Iterable

import psutil

# An environment variable of every process of a stack: "<run>:<home>". It identifies processes that no list of pids has,
# such as a child that was started when its supervisor was killed.
MARK = "FILEMILL_STACK_RUN"
# The umask of every process of a stack: its files are private.
UMASK = 0o077

_POLL_SECONDS = 0.02
_KILL_SECONDS = 3.0


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all its descendants, itself first; empty if it has ended."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def send(process: psutil.Process, number: int) -> None:
    """Send a signal; none if the process has ended, even if its pid was reused."""
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def ended(process: psutil.Process) -> bool:
    """Whether the process has ended. A zombie has: it holds no port and no file."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def wait_ended(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended; returns those that have not after `seconds`."""
    deadline = time.monotonic() + seconds
    alive = [process for process in processes if not ended(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        alive = [process for process in alive if not ended(process)]
    return alive


def stop(targets: Iterable[tuple[psutil.Process, int]], grace: float) -> None:
    """Send each process its signal; after `grace` seconds, kill those that still run, and their descendants."""
    everyone: list[psutil.Process] = []
    for process, number in targets:
        members = family(process)
        everyone += members
        if members:
            send(process, number)
        for member in members:
            send(member, signal.SIGCONT)  # a suspended process handles no other signal
    kill(wait_ended(everyone, grace))


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill each process and its descendants, and wait until they have ended."""
    members = [member for process in processes for member in family(process)]
    for member in members:
        send(member, signal.SIGKILL)
    wait_ended(members, _KILL_SECONDS)


def suspend(process: psutil.Process) -> None:
    """Suspend the process and all its descendants until `resume`."""
    stopped: set[int] = set()
    # The parent first, so that it starts no more children; repeated for children that it started meanwhile.
    while running := [member for member in family(process) if member.pid not in stopped]:
        for member in running:
            send(member, signal.SIGSTOP)
            stopped.add(member.pid)


def resume(process: psutil.Process) -> None:
    """Resume the process and all its descendants."""
    for member in family(process):
        send(member, signal.SIGCONT)


def marked(mark: str) -> list[psutil.Process]:
    """Processes with `mark` in their environment: a complete mark, or `:<home>` for every run in that home.

    This process and its ancestors are left out.
    """
    own = psutil.Process()
    excluded = {own.pid, *(parent.pid for parent in own.parents())}
    found = []
    for process in psutil.process_iter():
        try:
            value = process.environ().get(MARK, "") if process.pid not in excluded else ""
        except (psutil.Error, OSError):
            continue
        if value and (value == mark or (mark.startswith(":") and value.endswith(mark))):
            found.append(process)
    return found
