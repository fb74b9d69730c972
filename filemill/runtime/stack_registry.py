"""The running stacks of this user on this machine: a private folder with one file for each home.

A supervisor adds its home at the start and removes it at the end. An entry whose supervisor has ended is ignored, and
removed when the next stack starts.
"""

import contextlib
import hashlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_runtime_path

from filemill.runtime.stack_state import StackState, replace_private_file, running_stack

# A path has at most 4096 bytes.
ENTRY_MAX_BYTES = 4096
STACKS_MAX = 100


def register_stack(home: Path) -> None:
    """Add a home. A folder that cannot be used is no error: the stack is then found by its home only."""
    folder = _folder()
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(folder):
            for entry, registered in _entries(folder):
                if running_stack(registered) is None:
                    entry.unlink(missing_ok=True)
            replace_private_file(_entry(folder, home), os.fsencode(home))


def unregister_stack(home: Path) -> None:
    """Remove a home."""
    with contextlib.suppress(OSError):
        _entry(_folder(), home).unlink(missing_ok=True)


def running_stacks() -> list[StackState]:
    """The running stacks, by home; at most `STACKS_MAX`."""
    folder = _folder()
    if not _is_private(folder):
        return []
    found = [running_stack(home) for _, home in _entries(folder)]
    return sorted((stack for stack in found if stack is not None), key=lambda stack: stack.home)


def _folder() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an XDG_RUNTIME_DIR that is not private: another folder is then used
        return user_runtime_path("filemill", appauthor=False) / "stacks"


def _entry(folder: Path, home: Path) -> Path:
    return folder / hashlib.sha256(os.fsencode(home)).hexdigest()[:32]


def _entries(folder: Path) -> Iterator[tuple[Path, Path]]:
    for entry in sorted(folder.iterdir())[:STACKS_MAX]:
        with contextlib.suppress(OSError, ValueError), entry.open("rb") as file:
            home = Path(os.fsdecode(file.read(ENTRY_MAX_BYTES)))
            if home.is_absolute():
                yield entry, home


def _is_private(folder: Path) -> bool:
    """Whether this user alone can write to the folder. Another user could name a home with servers of their own."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & 0o077
