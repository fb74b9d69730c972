"""What a run did to the system, and when: JSON lines, each written as it happens, so that a crash keeps them."""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

FAULT = "fault"
# A journal that is longer than this was not written by a run.
LINES_MAX = 100_000


class JournalEntry(msgspec.Struct, kw_only=True):
    """One act. Moments in seconds since the epoch; `ended` None while it lasts, the same as `began` for a point."""

    kind: str
    name: str
    began: float
    ended: float | None = None
    target: str = ""
    detail: dict[str, Any] = {}


class Journal:
    """The entries of one run; safe to use from several threads."""

    def __init__(self, path: Path | None = None) -> None:
        """Without a path it is kept in memory alone."""
        self.path = path
        self.entries: list[JournalEntry] = []
        self._lock = threading.Lock()

    def record_event(self, kind: str, name: str, **detail: object) -> JournalEntry:
        """Write down something that happens at a moment."""
        now = time.time()
        entry = JournalEntry(kind=kind, name=name, began=now, ended=now, detail=detail)
        with self._lock:
            self.entries.append(entry)
        self._write("note", entry)
        return entry

    @contextmanager
    def record_interval(self, kind: str, name: str, target: str = "", **detail: object) -> Iterator[JournalEntry]:
        """Write down something with a beginning and an end. What it learns on the way it puts into `detail`."""
        entry = JournalEntry(kind=kind, name=name, began=time.time(), target=target, detail=detail)
        with self._lock:
            self.entries.append(entry)
        self._write("begin", entry)
        try:
            yield entry
        except BaseException as error:
            entry.detail = {**entry.detail, "error": f"{type(error).__name__}: {error}"}
            raise
        finally:
            entry.ended = time.time()
            self._write("end", entry)

    def faults(self) -> list[JournalEntry]:
        """The faults, in their order."""
        with self._lock:
            return [entry for entry in self.entries if entry.kind == FAULT]

    def _write(self, moment: str, entry: JournalEntry) -> None:
        if self.path is None:
            return
        line = json.dumps({"moment": moment, **msgspec.to_builtins(entry)}, default=str)
        with self._lock, self.path.open("a") as file:
            file.write(line + "\n")


class _Line(JournalEntry, kw_only=True):
    moment: str = ""


def read_entries(path: Path) -> list[JournalEntry]:
    """What a journal's file holds, by its moments; what lasts still, or was cut off, has no `ended`.

    A missing file is an empty journal; a line that cannot be read, as the last one of a process that was killed, is
    left out.
    """
    entries: dict[tuple[str, str, str, float], JournalEntry] = {}
    with contextlib.suppress(FileNotFoundError), path.open("rb") as lines:
        for line in itertools.islice(lines, LINES_MAX):
            try:
                read = msgspec.json.decode(line, type=_Line)
            except (msgspec.DecodeError, RecursionError):
                continue
            entries[read.kind, read.name, read.target, read.began] = read
    return sorted(entries.values(), key=lambda entry: entry.began)
