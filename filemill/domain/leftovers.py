"""Objects of a file that nothing needs any more: superseded results, and checkpoints of runs that have ended. Pure.

The rule must hold whatever workers still do, because they know nothing of the deletion. A completed file is never
retried. The key of another attempt, and of a checkpoint, is used in no later run.
"""

import enum
import re

import msgspec

from filemill.domain.files import Status, canonical_key

_RUN = re.compile(r"file-[0-9]+--?[0-9]+-run(?P<run>[1-9][0-9]{0,9})(?P<attempt>-[0-9a-f]+)?\.(?P<extension>\w+)")


class LeftoverKind(enum.StrEnum):
    """Why nothing needs an object."""

    DELETED_FILE = "its file was deleted"
    SUPERSEDED = "superseded"
    CHECKPOINT = "checkpoint of an ended run"
    ENDED_ATTEMPT = "result of an ended run"


class FileEnd(msgspec.Struct, frozen=True):
    """Status, run and location of a file. A deleted file has None instead."""

    status: Status
    run: int
    s3_location: str | None


def leftover_kind(key: str, file: FileEnd | None) -> LeftoverKind | None:
    """Why nothing needs the object with a key of this file; None: it is needed, or may be. `file` None: deleted."""
    if file is None:
        return LeftoverKind.DELETED_FILE
    if file.s3_location is not None and canonical_key(file.s3_location) == key:
        return None
    match = _RUN.fullmatch(key)
    if match is not None:
        ended = int(match["run"]) < file.run or (int(match["run"]) == file.run and file.status.terminal)
        if match["attempt"] is None and match["extension"] == "checkpoint":
            return LeftoverKind.CHECKPOINT if ended else None
        if match["attempt"] is not None and ended:
            return LeftoverKind.SUPERSEDED if file.status is Status.COMPLETED else LeftoverKind.ENDED_ATTEMPT
    # A retry of a failed or cancelled file may find the object of the earlier run, and keep it.
    return LeftoverKind.SUPERSEDED if file.status is Status.COMPLETED and file.s3_location is not None else None
