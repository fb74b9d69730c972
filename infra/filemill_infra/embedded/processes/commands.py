"""Run the programs of a server: the server itself, or a tool that prepares its data."""

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from filemill_infra.embedded import logs
from filemill_infra.embedded.errors import CancelledError, StartError
from filemill_infra.embedded.ports import PortAllocator
from filemill_infra.embedded.processes import signals

_POLL_SECONDS = 0.02
# A server inherits only these variables: PGPORT, JAVA_TOOL_OPTIONS or WEED_… would reconfigure it.
_INHERITED = ("HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER")


@dataclass(frozen=True, kw_only=True)
class ServerContext:
    """What a server needs from its stack. The defaults are for a server without a stack."""

    home: Path
    ports: PortAllocator
    mark: str = ""
    reference_credentials: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    on_spawn: Callable[[int, int], None] = lambda _pid, _stop_signal: None
    on_exit: Callable[[int], None] = lambda _pid: None
    report: Callable[[str], None] = lambda _line: None


@dataclass(frozen=True, kw_only=True)
class Command:
    """How to run a program: with `user` and `group` if another account must run it; `env` extends what it inherits."""

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None
    group: int | None = None


def spawn(
    context: ServerContext, command: Command, log: Path, stop_signal: int, stdin: bytes = b""
) -> subprocess.Popen[bytes]:
    """Start a program in its own session, with its output in `log`, and register it with the watchdog."""
    if context.cancelled.is_set():
        raise CancelledError
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    with logs.open_log(log) as output, tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(
            command.argv,
            stdin=given,
            stdout=output,
            stderr=output,
            cwd=command.cwd,
            # C.UTF-8: a JVM in the C locale cannot open a path that is not ASCII.
            env={**inherited, "LC_ALL": "C.UTF-8", signals.MARK: context.mark, **command.env},
            user=command.user,
            group=command.group,
            extra_groups=None if command.user is None else [],
            umask=signals.UMASK,
            start_new_session=True,
        )
    context.on_spawn(process.pid, stop_signal)
    return process


def run_tool(context: ServerContext, command: Command, log: Path, what: str, stdin: bytes = b"") -> None:
    """Run a program and wait for its end. Raises StartError if it fails, CancelledError if the start is cancelled."""
    written = logs.size(log)
    process = spawn(context, command, log, signal.SIGTERM, stdin)
    try:
        while process.poll() is None:
            if context.cancelled.wait(_POLL_SECONDS):
                raise CancelledError
    finally:
        if process.poll() is None:
            members = signals.family(psutil.Process(process.pid))
            process.kill()
            process.wait()
            signals.kill(members)
        context.on_exit(process.pid)
    if process.returncode != 0:
        raise StartError(
            f"{what} failed with code {process.returncode}",
            where=str(command.cwd),
            log=logs.tail(log, since=written),
            advice=f"see {log}; is the disk full, or the folder not writable?",
        )
