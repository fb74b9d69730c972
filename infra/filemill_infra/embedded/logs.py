"""Log files of the stack: read their ends, and limit their size.

Every child process appends to a file. A file above the limit is copied to `<name>.1` and truncated; its writer
continues at the new end. This works for all programs: a JVM, C, Go, Python.
"""

import os
import shutil
from pathlib import Path
from typing import BinaryIO

LOG_LIMIT_BYTES = 20 * 1024 * 1024
_TAIL_BYTES = 64 * 1024


def open_log(path: Path) -> BinaryIO:
    """Open `path` for a child process to append to; rotate it first if it is too long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    trim(path)
    return path.open("ab", buffering=0)


def trim(path: Path, limit: int = LOG_LIMIT_BYTES) -> bool:
    """Move the content of a log of more than `limit` bytes to `<name>.1`; returns whether it did.

    Lines that are written between copying and truncating are lost.
    """
    try:
        if path.stat().st_size <= limit:
            return False
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)
    except OSError:
        return False  # a full disk must not end the supervisor
    return True


def tail(path: Path, lines: int = 20, since: int = 0) -> list[str]:
    """The last `lines` lines of a log after byte `since`; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = since if since <= size else 0  # it has been truncated since
            file.seek(max(start, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def size(path: Path) -> int:
    """The size of `path` in bytes, 0 if it does not exist; for `tail(since=…)`."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
