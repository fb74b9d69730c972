"""What a run did to the system, and when: JSON lines, each written as it happens, so that a crash keeps them."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

FAULT = "fault"


class Entry(msgspec.Struct, kw_only=True):
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
        self.entries: list[Entry] = []
        self._lock = threading.Lock()

    def note(self, kind: str, name: str, **detail: object) -> Entry:
        """Write down something that happens at a moment."""
        now = time.time()
        entry = Entry(kind=kind, name=name, began=now, ended=now, detail=detail)
        with self._lock:
            self.entries.append(entry)
        self._write("note", entry)
        return entry

    @contextmanager
    def lasting(self, kind: str, name: str, target: str = "") -> Iterator[Entry]:
        """Write down something with a beginning and an end. What it learns on the way it puts into `detail`."""
        entry = Entry(kind=kind, name=name, began=time.time(), target=target)
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

    def faults(self) -> list[Entry]:
        """The faults, in their order."""
        with self._lock:
            return [entry for entry in self.entries if entry.kind == FAULT]

    def _write(self, moment: str, entry: Entry) -> None:
        if self.path is None:
            return
        line = json.dumps({"moment": moment, **msgspec.to_builtins(entry)}, default=str)
        with self._lock, self.path.open("a") as file:
            file.write(line + "\n")
