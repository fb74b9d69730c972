"""What workers are told, over `worker.commands`. Pure."""

import enum
from datetime import datetime

import msgspec

from filemill.domain.files import FileId
from filemill.domain.messages import Run
from filemill.errors import InvalidMessage


class WorkerCommandKind(enum.StrEnum):
    """What to do."""

    CANCEL = "cancel"
    QUIET = "quiet"
    RESUME = "resume"


class WorkerCommand(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One command. `files` are [fileId, run] pairs (cancel); `worker_id` None is for every worker."""

    order: WorkerCommandKind
    timestamp: datetime
    worker_id: str | None = None
    files: list[tuple[FileId, Run]] = []


_decoder = msgspec.json.Decoder(WorkerCommand)


def decode_command(value: bytes | None) -> WorkerCommand:
    """Read a record of `worker.commands`. Raises InvalidMessage."""
    try:
        command = _decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidMessage(f"not a command: {error}") from None
    if command.timestamp.tzinfo is None:
        raise InvalidMessage("the command's timestamp has no time zone")
    return command


class CommandState:
    """What the commands read so far amount to, for one worker.

    Cancellations count whenever they were given: their record may be read much later. Being quiet is a state of a
    process, so only what was said after its start counts: by the place on the topic, for clocks differ.
    """

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self._cancelled: set[tuple[int, int]] = set()
        self.quiet = False

    def apply(self, command: WorkerCommand, *, before_start: bool = False) -> list[tuple[int, int]]:
        """Follow a command, which may be one from before this worker's start; returns what it newly cancels."""
        if command.worker_id not in (None, self._worker_id):
            return []
        if command.order is WorkerCommandKind.CANCEL:
            new = [file_run for file_run in command.files if file_run not in self._cancelled]
            self._cancelled.update(new)
            return new
        if not before_start:
            self.quiet = command.order is WorkerCommandKind.QUIET
        return []

    def is_cancelled(self, file_id: int, run: int | None) -> bool:
        """Whether a run is not wanted any more; a record without a run is its file's first."""
        return (file_id, run or 1) in self._cancelled
