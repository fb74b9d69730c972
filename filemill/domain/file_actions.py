"""What a user can do to many files at once: retry, cancel, delete; and why a file is refused."""

import enum
from collections.abc import Mapping, Sequence

import msgspec

from filemill.domain.files import Status
from filemill.domain.permissions import Permission, Principal, refusal
from filemill.errors import Forbidden

# The greatest run of a file: the column is an integer of 32 bits.
RUN_MAX = 2**31 - 1


class FileAction(enum.StrEnum):
    """An action on files."""

    RETRY = "retry"
    CANCEL = "cancel"
    DELETE = "delete"

    @property
    def statuses(self) -> tuple[Status, ...]:
        """The statuses in which a file allows the action."""
        return _STATUSES[self]

    @property
    def done(self) -> str:
        """The past participle, for messages: 3 files cancelled."""
        return _DONE[self]


_STATUSES = {
    FileAction.RETRY: (Status.FAILED, Status.CANCELLED),
    FileAction.CANCEL: (Status.PENDING, Status.PROCESSING),
    FileAction.DELETE: (Status.COMPLETED, Status.FAILED, Status.CANCELLED),
}
_DONE = {FileAction.RETRY: "retried", FileAction.CANCEL: "cancelled", FileAction.DELETE: "deleted"}


# What a principal needs for the action on its own files, and on those of others and on all that match a filter.
OWN_PERMISSIONS = {
    FileAction.RETRY: Permission.RETRY_OWN_FILES,
    FileAction.CANCEL: Permission.CANCEL_OWN_FILES,
    FileAction.DELETE: Permission.DELETE_OWN_FILES,
}
PERMISSIONS = {
    FileAction.RETRY: Permission.RETRY_FILES,
    FileAction.CANCEL: Permission.CANCEL_FILES,
    FileAction.DELETE: Permission.DELETE_FILES,
}


def action_refusal(principal: Principal, action: FileAction, owner: str | None) -> Forbidden | None:
    """Why the principal may not do the action to a file of this owner (None: it has no owner); None: it may."""
    own = owner is not None and owner == principal.name
    return refusal(principal, OWN_PERMISSIONS[action] if own else PERMISSIONS[action])


def only_owner(principal: Principal, *, own_files_only: bool) -> str | None:
    """The only owner whose files the principal may read; None: it may read all.

    `own_files_only` is the setting: with it, only roles with the permission read the files of others.
    """
    if not own_files_only or refusal(principal, Permission.VIEW_FILES_OF_OTHERS) is None:
        return None
    return principal.name


class FileSelection(msgspec.Struct, frozen=True):
    """All files that match a filter: a status (None: any), a search in the title, a queue and a handler ("": any).

    `owner`: the only owner whose files match; None: all.
    """

    status: Status | None = None
    search: str = ""
    queue: str = ""
    handler: str = ""
    owner: str | None = None

    @property
    def narrow(self) -> bool:
        """Whether it leaves out files for another reason than their status."""
        return bool(self.search.strip() or self.queue or self.handler) or self.owner is not None

    def eligible(self, action: FileAction) -> tuple[Status, ...]:
        """The statuses of the selected files that allow the action."""
        return tuple(status for status in action.statuses if self.status in (None, status))


class RefusalCode(enum.StrEnum):
    """Why an action was refused for a file."""

    NOT_FOUND = "not-found"
    WRONG_STATUS = "wrong-status"
    BEING_PUBLISHED = "being-published"
    LAST_RUN = "last-run"
    NOT_OWN = "not-own"


class FileRefusal(msgspec.Struct, frozen=True):
    """A file for which an action was refused: `reason` for people, `code` for programs."""

    file_id: int
    reason: str
    code: RefusalCode


class ActionResult(msgspec.Struct, frozen=True):
    """The files to which an action was done, and those for which it was refused."""

    done: list[int]
    refused: list[FileRefusal]


def refusals(action: FileAction, ids: Sequence[int], rows: Mapping[int, tuple[Status, int]]) -> list[FileRefusal]:
    """Why the action was not done to these files. `rows`: status and run of each that exists."""
    return [_refusal(action, file_id, rows.get(file_id)) for file_id in ids]


def _refusal(action: FileAction, file_id: int, row: tuple[Status, int] | None) -> FileRefusal:
    if row is None:
        return FileRefusal(file_id, "there is no such file", RefusalCode.NOT_FOUND)
    status, run = row
    if action is FileAction.RETRY and run >= RUN_MAX and status in action.statuses:
        return FileRefusal(file_id, "it has no further run: submit a new request", RefusalCode.LAST_RUN)
    if action is not FileAction.CANCEL and not status.terminal:
        reason = f"it is {status}: only a file in a final status can be {action.done}"
        return FileRefusal(file_id, reason, RefusalCode.WRONG_STATUS)
    if action is FileAction.DELETE:
        reason = "its request is being published to Kafka: try again in a moment"
        return FileRefusal(file_id, reason, RefusalCode.BEING_PUBLISHED)
    return FileRefusal(file_id, f"it is {status}", RefusalCode.WRONG_STATUS)
