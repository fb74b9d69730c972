"""Starts and ends of the processes of a stack on this machine, from the journal that its supervisor writes."""

import enum
from collections.abc import Iterable
from pathlib import Path

import msgspec

from filemill.runtime.journal import JournalEntry, read_entries

PROCESSES_FILE = "processes.jsonl"
PROCESS = "process"


class ProcessChange(enum.StrEnum):
    """What happened to a process. A process that `ended` did so unexpectedly; one that was `stopped` did not."""

    STARTED = "started"
    ENDED = "ended"
    STOPPED = "stopped"


class ProcessStep(msgspec.Struct, frozen=True, kw_only=True):
    """A start or an end of a process, in seconds since the epoch.

    `name` is that of a server (kafka, postgres, s3) or of a worker; `role` is that of a worker, or the server's name.
    `again`: it was started after it had ended. `text` says how it ended, if that is known.
    """

    at: float
    change: ProcessChange
    name: str
    role: str
    pid: int | None = None
    again: bool = False
    text: str = ""


def process_history(home: Path, since: float) -> list[ProcessStep]:
    """The starts and ends in the stacks of this home since a moment, oldest first."""
    return list(_steps(entry for entry in read_entries(home / PROCESSES_FILE) if entry.began >= since))


def _steps(entries: Iterable[JournalEntry]) -> Iterable[ProcessStep]:
    for entry in entries:
        if entry.kind != PROCESS or entry.name not in list(ProcessChange):
            continue
        detail: dict[str, object] = {
            key: entry.detail[key] for key in ("role", "pid", "again", "text") if key in entry.detail
        }
        values: dict[str, object] = {
            "at": entry.began,
            "change": entry.name,
            "name": entry.target,
            "role": entry.target,
            **detail,
        }
        try:
            yield msgspec.convert(values, ProcessStep)
        except msgspec.ValidationError:
            continue  # a line of another version
