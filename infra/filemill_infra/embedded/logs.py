"""Log files of the stack: read their ends, and keep them from filling the disk.

Every child writes to a file opened for appending. So one rule keeps all of them small, whatever wrote them (a JVM, C,
Go, Python): a file beyond the limit is copied to `<name>.1` and cut to nothing, and its writer goes on at the new end.
"""

import os
import shutil
from pathlib import Path
from typing import BinaryIO

LOG_LIMIT_BYTES = 20 * 1024 * 1024
_TAIL_BYTES = 64 * 1024


def open_log(path: Path) -> BinaryIO:
    """Open `path` for a child to append to; a file that is too long is moved aside first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    trim(path)
    return path.open("ab", buffering=0)


def trim(path: Path, limit: int = LOG_LIMIT_BYTES) -> bool:
    """Move the content of a log beyond `limit` bytes to `<name>.1`; True where that was needed.

    What is written between the copy and the cut is lost: a few lines, against a full disk.
    """
    try:
        if path.stat().st_size <= limit:
            return False
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)
    except OSError:
        return False  # a full disk must not end the process that keeps the stack alive
    return True


def tail(path: Path, lines: int = 20, since: int = 0) -> list[str]:
    """The last `lines` lines of a log that were written after byte `since`; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = since if since <= size else 0  # it was cut since then
            file.seek(max(start, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def size(path: Path) -> int:
    """Bytes in `path` now, 0 where there is none: what `tail(since=…)` takes."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
