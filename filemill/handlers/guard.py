"""The guard of a handler process: it ends the runner and all its descendants. It runs no code of a handler.

On Linux it is a subreaper: a process that detaches itself from the runner becomes a child of the guard, and is found.
On other systems only the runner's process group is killed.
"""

import contextlib
import ctypes
import os
import select
import signal
import struct
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# How often the guard looks for the runner's end on systems without descriptors of processes.
POLL_MILLISECONDS = 50
# Processes that fork faster than they are killed cannot be swept; then the guard gives up.
SWEEP_SECONDS = 5.0
LINUX = sys.platform == "linux"
# CPU seconds and peak resident memory in bytes, as the guard reports them.
USAGE = struct.Struct(">dQ")


def become_subreaper() -> None:
    """Let orphaned descendants become children of this process."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def watch(runner: int, control: int) -> int:
    """Wait for the runner's end, for a byte on the control socket, or for its end; then kill what is left.

    Writes what all of them used to the control socket: a killed runner cannot report it. Returns the exit code of a
    shell: 128 + the signal if the runner was killed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    poll = select.poll()
    poll.register(control, select.POLLIN | select.POLLHUP)
    descriptor = os.pidfd_open(runner) if LINUX else None
    if descriptor is not None:
        poll.register(descriptor, select.POLLIN)
    while not poll.poll(None if descriptor is not None else POLL_MILLISECONDS):
        if os.waitid(os.P_PID, runner, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
    # Until it is reaped, no other process can have the runner's id, so that its group is really its group.
    _kill_group(runner)
    deadline = time.monotonic() + SWEEP_SECONDS
    while (left := _descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    # The usage of a process includes that of its children which it waited for.
    _, status, usage = os.wait4(runner, 0)
    cpu_seconds, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss
    with contextlib.suppress(ChildProcessError):
        while True:  # those that detached themselves
            pid, _, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                break
            cpu_seconds, peak = cpu_seconds + usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss)
    with contextlib.suppress(OSError):  # the processor is gone
        os.write(control, USAGE.pack(cpu_seconds, peak if sys.platform == "darwin" else peak * 1024))
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def _descendants(root: int) -> list[int]:
    """The living descendants of a process, without zombies."""
    if not LINUX:
        return []
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", entry.name, "stat").read_bytes().rpartition(b")")[2].split()
                if fields[0] not in (b"Z", b"X"):
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    pending = [root]
    while pending:
        children = parents.get(pending.pop(), [])
        found += children
        pending += children
    return found


def adopted(guard: int, runner: int) -> bool:
    """Whether the guard has another child than the runner: a process that detached itself."""
    with contextlib.suppress(OSError):
        return read_proc(f"/proc/{guard}/task/{guard}/children").split() != [str(runner).encode()]
    return False


def read_proc(path: str) -> bytes:
    """The first 4 KiB of a file of `/proc`. Each job reads two, and a file object costs more than the read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
