"""The state file of a running embedded stack: what runs, where, and under which process ids.

`filemill up` writes `HOME/stack.json`; every other command reads it to find the servers. A state file whose supervisor
is no longer alive counts as absent: an address that nobody answers is worse than none.
"""

import os
import tempfile
from pathlib import Path

import msgspec
import psutil

STATE_FILE = "stack.json"
# The journal of the faults that were injected into the stacks of this home (`filemill.runtime.journal`).
FAULTS_FILE = "faults.jsonl"

# Two readings of one process's start time can differ: psutil adds the boot time, which each process reads for itself,
# and which moves by about a second when the clock is adjusted. No pid is reused within that.
CREATE_TIME_TOLERANCE_SECONDS = 2.0


class ProcessRef(msgspec.Struct, frozen=True, kw_only=True):
    """A process, named so that a reused pid is not mistaken for it.

    `created` is the start time in seconds since the epoch, as `psutil.Process.create_time()` gives it.
    """

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> "ProcessRef":
        """Name the live process `pid`. Raises psutil.NoSuchProcess where there is none."""
        return cls(pid=pid, created=psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The live process that this names, or None where it has ended (a zombie has ended)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) <= CREATE_TIME_TOLERANCE_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """One embedded server: `name` is kafka, postgres or s3; `address` is host:port; `log` its log file."""

    name: str
    address: str
    version: str
    process: ProcessRef
    log: str


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """One process of ours: `role` is dashboard, processor, sync, monitor or relay; `id` is unique, as processor-1."""

    role: str
    id: str
    process: ProcessRef
    log: str
    restarts: int = 0


class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """All of a running stack. `settings` are values for `filemill.config.settings.Settings`, by field name.

    `control` is the path of the socket on which the supervisor takes orders (`filemill.runtime.supervisor_client`).
    """

    home: str
    supervisor: ProcessRef
    started_at: str
    settings: dict[str, str | int | float]
    servers: list[ServerState]
    workers: list[WorkerState]
    page: str | None = None
    control: str | None = None


def read_state(home: Path) -> StackState | None:
    """The last state written under `home`, whether its processes live or not; None where none is readable."""
    try:
        return msgspec.json.decode((home / STATE_FILE).read_bytes(), type=StackState)
    except (OSError, msgspec.DecodeError):
        return None


def running_stack(home: Path) -> StackState | None:
    """The stack that runs under `home` now, or None."""
    state = read_state(home)
    return state if state is not None and state.supervisor.process() is not None else None


def write_state(state: StackState) -> None:
    """Replace the state file. It holds passwords."""
    replace_private_file(Path(state.home) / STATE_FILE, msgspec.json.format(msgspec.json.encode(state), indent=2))


def replace_private_file(path: Path, content: bytes, mode: int = 0o600, group: int | None = None) -> None:
    """Replace a file in one step, so that no reader sees half of it. Its mode does not depend on the umask."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if group is not None:
                os.fchown(file.fileno(), -1, group)
            os.fchmod(file.fileno(), mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_state(home: Path) -> None:
    """Forget the stack under `home`, after everything of it has ended."""
    (home / STATE_FILE).unlink(missing_ok=True)
