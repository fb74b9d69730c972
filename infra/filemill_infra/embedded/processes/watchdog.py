"""The watchdog: a process that stops the children of a crashed supervisor.

It reads from a pipe that only the supervisor writes to. When the supervisor ends, the pipe closes. Then the watchdog
stops every process that was registered, and every process with the stack's mark. Its commands are `watch <pid>
<signal>`, `release <pid>` and, at an orderly end, `close`. It needs no feature of a specific operating system.
"""

import contextlib
import os
import select
import signal
import sys

import psutil

from filemill_infra.embedded.processes import signals

GRACE_SECONDS = 4.0
_PARENT_POLL_SECONDS = 1.0
_CHUNK_BYTES = 65_536


class _WatchedProcesses:
    """The processes to stop, each a psutil.Process since its registration: a reused pid is another process."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[psutil.Process, int]] = {}
        self.closed = False

    def handle(self, line: str) -> None:
        match line.split():
            case ["watch", pid, number]:
                with contextlib.suppress(psutil.NoSuchProcess):  # it has already ended
                    self.known[int(pid)] = (psutil.Process(int(pid)), int(number))
            case ["release", pid]:
                self.known.pop(int(pid), None)
            case ["close"]:
                self.closed = True


def _listen(watched: _WatchedProcesses, supervisor: int) -> None:
    """Read commands until the supervisor ends. A fork of it may keep the pipe open, so its pid is checked as well."""
    rest = b""
    while not watched.closed and os.getppid() == supervisor:
        if not select.select([sys.stdin.fileno()], [], [], _PARENT_POLL_SECONDS)[0]:
            continue
        chunk = os.read(sys.stdin.fileno(), _CHUNK_BYTES)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            watched.handle(line.decode())


def main(arguments: list[str]) -> None:
    """Run as `python -m filemill_infra.embedded.processes.watchdog <pid of the supervisor> <mark>`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # it ends only after its supervisor
    supervisor, mark = int(arguments[0]), arguments[1]
    watched = _WatchedProcesses()
    _listen(watched, supervisor)
    if watched.closed:
        return
    print(f"The supervisor {supervisor} has ended: stopping {sorted(watched.known)}", flush=True)
    signals.stop(watched.known.values(), GRACE_SECONDS)
    unregistered = signals.marked(mark)
    signals.kill(unregistered)
    print(f"Stopped. Unregistered processes: {[process.pid for process in unregistered]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
