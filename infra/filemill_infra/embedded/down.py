"""Stop a stack from another process, and stop the orphaned processes of a crashed one."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from filemill.runtime.stack_state import read_state, remove_state
from filemill_infra.embedded.errors import HomeError, HomeInUseError
from filemill_infra.embedded.home import HomeLock, lock_holder
from filemill_infra.embedded.processes import signals

_POLL_SECONDS = 0.05
_RELEASE_SECONDS = 10.0
_GRACE_SECONDS = 4.0
_STOP_SIGNALS = {"postgres": signal.SIGINT}


@dataclass(frozen=True, kw_only=True)
class DownResult:
    """The result of `down`. `cleared` are the pids of orphaned processes that were stopped.

    Outcomes: `stopped`, the supervisor stopped its stack; `killed`, it did not stop in time and was killed; `cleared`,
    it was dead and had left processes or a state file; `nothing`, no stack was running.
    """

    outcome: Literal["stopped", "killed", "cleared", "nothing"]
    supervisor: int | None = None
    cleared: tuple[int, ...] = ()


def down(home: Path, seconds: float = 15.0) -> DownResult:
    """Stop the stack of `home`; after `seconds`, its supervisor is killed. Raises EmbeddedError."""
    if not home.is_dir():
        return DownResult(outcome="nothing")
    home = home.resolve()
    try:
        lock = _take_lock(home)
    except HomeInUseError:
        return _stop(home, seconds)
    return _clear(home, lock)


def stop_orphans(home: Path) -> tuple[int, ...]:
    """Stop the orphaned processes of a crashed stack and remove its state. The caller holds the home's lock."""
    targets: dict[int, tuple[psutil.Process, int]] = {}
    for process in signals.marked(f":{home}"):
        targets[process.pid] = (process, signal.SIGTERM)
    state = read_state(home)
    if state is not None:
        recorded = [(worker.process, signal.SIGTERM) for worker in state.workers]
        recorded += [(server.process, _STOP_SIGNALS.get(server.name, signal.SIGTERM)) for server in state.servers]
        for ref, stop_signal in recorded:
            if (found := ref.process()) is not None:
                targets[found.pid] = (found, stop_signal)
    signals.stop(targets.values(), _GRACE_SECONDS)
    remove_state(home)
    return tuple(sorted(targets))


def _take_lock(home: Path) -> HomeLock:
    try:
        return HomeLock(home)
    except OSError as error:
        raise HomeError(
            f"The home folder's lock cannot be opened: {error.strerror or error}",
            where=str(home),
            advice="stop the stack as the user that started it.",
        ) from error


def _clear(home: Path, lock: HomeLock) -> DownResult:
    state = read_state(home)
    try:
        cleared = stop_orphans(home)
    finally:
        lock.release()
    if state is None and not cleared:
        return DownResult(outcome="nothing")
    return DownResult(outcome="cleared", supervisor=state.supervisor.pid if state else None, cleared=cleared)


def _stop(home: Path, seconds: float) -> DownResult:
    holder = lock_holder(home)
    supervisor = holder.process() if holder else None
    if supervisor is None:
        # It released the lock meanwhile, or it runs in another container and is not visible here.
        return _clear(home, _await_lock(home, seconds))
    try:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.send_signal(signal.SIGCONT)  # a suspended process handles no other signal
    except psutil.AccessDenied as error:
        raise HomeError(
            f"The stack's supervisor, pid {supervisor.pid}, belongs to another user",
            where=str(home),
            advice="stop the stack as the user that started it.",
        ) from error
    except psutil.NoSuchProcess:
        pass
    late = bool(signals.wait_ended([supervisor], seconds))
    if late:
        signals.send(supervisor, signal.SIGKILL)
    lock = _await_lock(home, _RELEASE_SECONDS)
    try:
        cleared = stop_orphans(home)
    finally:
        lock.release()
    return DownResult(outcome="killed" if late else "stopped", supervisor=supervisor.pid, cleared=cleared)


def _await_lock(home: Path, seconds: float) -> HomeLock:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _take_lock(home)
        except HomeInUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
