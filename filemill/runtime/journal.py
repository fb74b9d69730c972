"""The journal of a run: its actions and faults as JSON lines, each written at once, so that a crash loses none."""

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
# Lines beyond these are not read: no run writes as many.
LINES_MAX = 100_000


class JournalEntry(msgspec.Struct, kw_only=True):
    """An action or a fault. Times are seconds since the epoch.

    `ended` is None while it lasts, and equals `began` for an event without duration. `code` is a fault's kind
    (`filemill.runtime.fault.FaultCode`); entries of older versions have none.
    """

    kind: str
    name: str
    began: float
    ended: float | None = None
    target: str = ""
    code: str = ""
    detail: dict[str, Any] = {}


class Journal:
    """The journal of one run. Safe to use from several threads."""

    def __init__(self, path: Path | None = None) -> None:
        """Without a path, the entries are only kept in memory."""
        self.path = path
        self.entries: list[JournalEntry] = []
        self._lock = threading.Lock()

    def record_event(self, kind: str, name: str, target: str = "", **detail: object) -> JournalEntry:
        """Record an event without duration."""
        now = time.time()
        entry = JournalEntry(kind=kind, name=name, began=now, ended=now, target=target, detail=detail)
        with self._lock:
            self.entries.append(entry)
        self._write("note", entry)
        return entry

    @contextmanager
    def record_interval(
        self, kind: str, name: str, target: str = "", code: str = "", **detail: object
    ) -> Iterator[JournalEntry]:
        """Record the begin and the end of a block, which may add findings to the entry's `detail`."""
        entry = JournalEntry(kind=kind, name=name, began=time.time(), target=target, code=code, detail=detail)
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
        """The faults, in order."""
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
    """Read a journal's file, in order of time. Entries that are still active, or were interrupted, have no `ended`.

    A missing file is an empty journal. Lines that cannot be decoded are left out, such as an incomplete last line.
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
