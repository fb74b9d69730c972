"""Commands to workers on `worker.commands`. Pure."""

import enum
from datetime import datetime

import msgspec

from filemill.domain.files import FileId
from filemill.domain.messages import Run
from filemill.errors import InvalidMessage


class WorkerCommandKind(enum.StrEnum):
    """The kinds of commands."""

    CANCEL = "cancel"
    QUIET = "quiet"
    RESUME = "resume"


class WorkerCommand(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One command. `files` are pairs of file id and run (cancel); `worker_id` None addresses every worker."""

    kind: WorkerCommandKind = msgspec.field(name="order")
    timestamp: datetime
    worker_id: str | None = None
    files: list[tuple[FileId, Run]] = []


_decoder = msgspec.json.Decoder(WorkerCommand)


def decode_command(value: bytes | None) -> WorkerCommand:
    """Decode a record of `worker.commands`. Raises InvalidMessage."""
    try:
        command = _decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidMessage(f"not a command: {error}") from None
    if command.timestamp.tzinfo is None:
        raise InvalidMessage("the command's timestamp has no time zone")
    return command


class CommandState:
    """The combined effect of all commands read so far, for one worker.

    Cancellations count whenever they were sent, because the record of the file may be read much later. Being quiet is
    a state of one process, so only commands after its start count. Their offsets decide that, because clocks differ.
    """

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self._cancelled: set[tuple[int, int]] = set()
        self.quiet = False

    def apply(self, command: WorkerCommand, *, before_start: bool = False) -> list[tuple[int, int]]:
        """Apply a command, which may be older than this process; returns the files and runs that it newly cancels."""
        if command.worker_id not in (None, self._worker_id):
            return []
        if command.kind is WorkerCommandKind.CANCEL:
            new = [file_run for file_run in command.files if file_run not in self._cancelled]
            self._cancelled.update(new)
            return new
        if not before_start:
            self.quiet = command.kind is WorkerCommandKind.QUIET
        return []

    def is_cancelled(self, file_id: int, run: int | None) -> bool:
        """Whether the run is cancelled. A record without a run belongs to its file's first run."""
        return (file_id, run or 1) in self._cancelled
