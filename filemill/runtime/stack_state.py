"""The state file of a running embedded stack: its servers and workers, their addresses and process ids.

`filemill up` writes `HOME/stack.json`; the other commands read it to find the servers. A state file of a supervisor
that has ended counts as missing.
"""

import os
import tempfile
from pathlib import Path

import msgspec
import psutil

STATE_FILE = "stack.json"
# The journal of faults in the stacks of this home (`filemill.runtime.journal`).
FAULTS_FILE = "faults.jsonl"

# Two readings of a process's start time can differ: psutil adds the boot time, which changes by about a second when the
# clock is adjusted. No pid is reused within that time.
CREATE_TIME_TOLERANCE_SECONDS = 2.0


class ProcessRef(msgspec.Struct, frozen=True, kw_only=True):
    """A reference to a process, which a reused pid does not match.

    `created` is the start time in seconds since the epoch, as `psutil.Process.create_time()` gives it.
    """

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> "ProcessRef":
        """A reference to the running process `pid`. Raises psutil.NoSuchProcess."""
        return cls(pid=pid, created=psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The running process, or None if it has ended; a zombie has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) <= CREATE_TIME_TOLERANCE_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    @property
    def suspended(self) -> bool:
        """Whether the process is stopped (SIGSTOP)."""
        process = self.process()
        try:
            return process is not None and process.status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """An embedded server: `name` is kafka, postgres or s3; `address` is host:port; `log` is its log file."""

    name: str
    address: str
    version: str
    process: ProcessRef
    log: str


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process: `role` is dashboard, processor, sync, monitor or relay; `id` is unique, such as processor-1."""

    role: str
    id: str
    process: ProcessRef
    log: str
    restarts: int = 0


class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """A running stack. `settings` are values for `filemill.config.settings.Settings`, by field name.

    `control` is the path of the control socket (`filemill.runtime.supervisor_client`). `auth` is the
    mode of sign-in to the page, and `token` its launch token, if it requires one.
    """

    home: str
    supervisor: ProcessRef
    started_at: str
    settings: dict[str, str | int | float]
    servers: list[ServerState]
    workers: list[WorkerState]
    page: str | None = None
    control: str | None = None
    auth: str = "local"
    token: str | None = None


def read_state(home: Path) -> StackState | None:
    """The last state in `home`, even if its processes have ended; None if it cannot be read."""
    try:
        return msgspec.json.decode((home / STATE_FILE).read_bytes(), type=StackState)
    except (OSError, msgspec.DecodeError):
        return None


def running_stack(home: Path) -> StackState | None:
    """The running stack of `home`, or None."""
    state = read_state(home)
    return state if state is not None and state.supervisor.process() is not None else None


def write_state(state: StackState) -> None:
    """Replace the state file, which contains passwords."""
    replace_private_file(Path(state.home) / STATE_FILE, msgspec.json.format(msgspec.json.encode(state), indent=2))


def replace_private_file(path: Path, content: bytes, mode: int = 0o600, group: int | None = None) -> None:
    """Replace a file atomically. Its mode does not depend on the umask."""
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
    """Remove the state of `home`, after the stack has ended."""
    (home / STATE_FILE).unlink(missing_ok=True)
