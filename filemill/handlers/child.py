"""The process that runs plain functions: `python -m filemill.handlers.child`, started by `filemill.handlers.pool`.

It forks at once. The parent becomes the guard, which runs no code of a handler: it waits until its processor is gone,
asks for the kill, or the runner has ended, and then kills every process that the runner left, also those that began a
session of their own. The runner imports the handlers and runs one job after the other. If the guard dies, the kernel
kills the runner.

Reads: the request pipe. Writes: the response pipe; stdout and stderr are a third pipe. The guard writes what the
processes used to the control socket, when they have ended. Dies: the processor counts the
attempt as failed and starts another process.
"""

import contextlib
import os
import sys
from pathlib import Path

from filemill.handlers import guard, runner

# The processor has the first use of the CPUs: its consumer must poll, and its deadlines must be kept.
NICENESS = 5


def main(arguments: list[str]) -> int:
    """Run until the processor closes the pipes. The arguments are the descriptors: requests, responses, control."""
    request, response, control = map(int, arguments)
    for descriptor in (request, response, control):
        os.set_inheritable(descriptor, False)
    guard.become_subreaper()
    guard_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(control)
        os.setsid()
        guard.die_with_parent(guard_pid)
        os.nice(NICENESS)
        with contextlib.suppress(OSError):  # the kernel's first choice if the machine's memory ends
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
        runner.serve(request, response, guard_pid)
        return 0
    os.close(request)
    os.close(response)
    os.close(1)
    os.close(2)
    return guard.watch(pid, control)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
