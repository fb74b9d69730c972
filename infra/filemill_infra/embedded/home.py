"""The home folder of a stack: made, checked, locked against a second stack, and removed."""

import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

from filemill.runtime.stack_state import ProcessRef, read_state
from filemill_infra.embedded.errors import HomeError, HomeInUseError
from filemill_infra.embedded.servers.postgres_folders import external_folder

LOCK_FILE = "lock"
PRIVATE = 0o700

# What a new home takes (PostgreSQL 80 MB, the others little), and room to work in.
MINIMUM_FREE_BYTES = 300 * 1024 * 1024
_PROBE_BYTES = 1024 * 1024
_ADVICE = {
    errno.EROFS: "the disk is mounted read-only; give another folder with --home.",
    errno.EACCES: "the folder is not yours; give another one with --home.",
    errno.EPERM: "the folder is not yours; give another one with --home.",
    errno.ENOSPC: "the disk is full; make room, or give a folder on another disk with --home.",
    errno.EDQUOT: "your quota is used up; make room, or give a folder on another disk with --home.",
    errno.ENOTDIR: "part of this path is a file; give another one with --home.",
    errno.EEXIST: "this path is a file; give a folder with --home.",
    errno.ENAMETOOLONG: "the path is too long; give a shorter one with --home.",
}


def prepare_home(home: Path) -> Path:
    """Make the folder, close it to other users, check that it can be written to. Returns its real path.

    Raises HomeError.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        home = home.resolve(strict=True)
        if _is_ours(home):
            _close(home)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
        for name in ("logs", "kafka", "s3"):
            (home / name).mkdir(mode=PRIVATE, exist_ok=True)
            _close(home / name)
    except OSError as error:
        raise HomeError(
            f"The home folder cannot be used: {error.strerror or error}",
            where=str(home),
            advice=_ADVICE.get(error.errno or 0, "give another folder with --home."),
        ) from error
    free = shutil.disk_usage(home).free
    if free < MINIMUM_FREE_BYTES:
        raise HomeError(
            f"The disk has {free / 2**20:.0f} MB left; the servers need {MINIMUM_FREE_BYTES / 2**20:.0f} MB",
            where=str(home),
            advice=_ADVICE[errno.ENOSPC],
        )
    return home


def _is_ours(home: Path) -> bool:
    """Whether the folder is a home and nothing else. Folders such as /tmp keep their mode; the folders inside close."""
    shared = bool(home.stat().st_mode & stat.S_ISVTX)
    return not shared and ((home / LOCK_FILE).exists() or not any(home.iterdir()))


def _close(folder: Path) -> None:
    """Let only the owner in. Homes of earlier versions were open to all."""
    if stat.S_IMODE(folder.stat().st_mode) != PRIVATE:
        folder.chmod(PRIVATE)


class HomeLock:
    """Held by the one stack of a home. The system lets go of it when its process ends, however it ends."""

    def __init__(self, home: Path) -> None:
        """Take the lock. Raises HomeInUseError where another process has it."""
        self._file = (home / LOCK_FILE).open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            holder = lock_holder(home)
            state = read_state(home)
            page = state.page if state and holder and state.supervisor.pid == holder.pid else None
            raise HomeInUseError(str(home), holder.pid if holder else None, page) from None
        ref = ProcessRef.of(os.getpid())
        self._file.truncate(0)
        self._file.write(json.dumps({"pid": ref.pid, "created": ref.created}))
        self._file.flush()

    def release(self) -> None:
        """Let go of it. The file stays: removing it would let two processes lock two files of one name."""
        self._file.close()


def lock_holder(home: Path) -> ProcessRef | None:
    """The process that last took the lock, as far as the file says."""
    try:
        content = json.loads((home / LOCK_FILE).read_text())
        return ProcessRef(pid=int(content["pid"]), created=float(content["created"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_home(home: Path) -> None:
    """Delete a home that no stack uses, with what of it lies elsewhere. Raises HomeInUseError."""
    if not home.is_dir():
        return
    lock = HomeLock(home)
    try:
        outside = external_folder(home / "postgres")
        if outside is not None:
            shutil.rmtree(outside)
        shutil.rmtree(home)
    finally:
        lock.release()
