"""Signals to processes and to all that they started. Only the standard library and psutil, for the watchdog's sake."""

import contextlib
import signal
import time
from collections.abc import Iterable

import psutil

# In the environment of every process of a stack: "<run>:<home>". It finds what no list of pids has, such as a child
# that was started in the moment its supervisor was killed.
MARK = "FILEMILL_STACK_RUN"
# For every process of a stack: what it writes is for its own user alone.
UMASK = 0o077

_POLL_SECONDS = 0.02
_KILL_SECONDS = 3.0


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all its descendants, itself first; empty where it has ended."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def send(process: psutil.Process, number: int) -> None:
    """Send a signal; a process that has ended, or is another's by now, gets none."""
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def ended(process: psutil.Process) -> bool:
    """Whether the process has ended. A zombie has: it holds no port and no file, and may never be reaped."""
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
    """Ask each process to end by its signal; kill what is left of it and its descendants after `grace` seconds."""
    everyone: list[psutil.Process] = []
    for process, number in targets:
        members = family(process)
        everyone += members
        if members:
            send(process, number)
        for member in members:
            send(member, signal.SIGCONT)  # a suspended process hears no other signal
    kill(wait_ended(everyone, grace))


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill each process with its descendants, and wait until they have ended."""
    members = [member for process in processes for member in family(process)]
    for member in members:
        send(member, signal.SIGKILL)
    wait_ended(members, _KILL_SECONDS)


def suspend(process: psutil.Process) -> None:
    """Stop the process and all descendants where they stand, until `resume`."""
    stopped: set[int] = set()
    # The parent first, so that it starts no more of them; again, for those it started meanwhile.
    while fresh := [member for member in family(process) if member.pid not in stopped]:
        for member in fresh:
            send(member, signal.SIGSTOP)
            stopped.add(member.pid)


def resume(process: psutil.Process) -> None:
    """Let the process and all descendants go on after `suspend`."""
    for member in family(process):
        send(member, signal.SIGCONT)


def marked(mark: str) -> list[psutil.Process]:
    """Processes whose environment carries `mark`: a whole one, or `:<home>` for every run under that home.

    This process and its ancestors are never among them.
    """
    own = psutil.Process()
    spared = {own.pid, *(parent.pid for parent in own.parents())}
    found = []
    for process in psutil.process_iter():
        try:
            value = process.environ().get(MARK, "") if process.pid not in spared else ""
        except (psutil.Error, OSError):
            continue
        if value and (value == mark or (mark.startswith(":") and value.endswith(mark))):
            found.append(process)
    return found
