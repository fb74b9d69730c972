"""The process that outlives a crashed supervisor, and ends what that one had started.

It holds the reading end of a pipe whose writing end only the supervisor has. When the supervisor ends, however it ends,
the pipe does too; then the watchdog stops every process it was told of, and what carries the stack's mark. It is told
`watch <pid> <signal>`, `release <pid>` and, at an orderly end, `close`. No feature of one operating system is needed.
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
    """Whom to stop. Each is held as a psutil.Process from when it is named: a reused pid is not mistaken for it."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[psutil.Process, int]] = {}
        self.closed = False

    def handle(self, line: str) -> None:
        match line.split():
            case ["watch", pid, number]:
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended before this was read
                    self.known[int(pid)] = (psutil.Process(int(pid)), int(number))
            case ["release", pid]:
                self.known.pop(int(pid), None)
            case ["close"]:
                self.closed = True


def _listen(watched: _WatchedProcesses, supervisor: int) -> None:
    """Until the supervisor ends. A fork of it may keep the pipe open, so its life is looked at as well."""
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
        signal.signal(number, signal.SIG_IGN)  # it goes when its supervisor has gone
    supervisor, mark = int(arguments[0]), arguments[1]
    watched = _WatchedProcesses()
    _listen(watched, supervisor)
    if watched.closed:
        return
    print(f"The supervisor {supervisor} is gone: stopping {sorted(watched.known)}", flush=True)
    signals.stop(watched.known.values(), GRACE_SECONDS)
    strays = signals.marked(mark)
    signals.kill(strays)
    print(f"Stopped. Beside them: {[stray.pid for stray in strays]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
