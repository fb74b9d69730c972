"""The home folder of a stack: create, check, lock and remove it."""

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

# A new home needs 80 MB for PostgreSQL and little for the others; the rest is for data.
MINIMUM_FREE_BYTES = 300 * 1024 * 1024
_PROBE_BYTES = 1024 * 1024
_ADVICE = {
    errno.EROFS: "the disk is mounted read-only; give another folder with --home.",
    errno.EACCES: "the folder belongs to another user; give another one with --home.",
    errno.EPERM: "the folder belongs to another user; give another one with --home.",
    errno.ENOSPC: "the disk is full; make room, or give a folder on another disk with --home.",
    errno.EDQUOT: "your quota is used up; make room, or give a folder on another disk with --home.",
    errno.ENOTDIR: "part of this path is a file; give another one with --home.",
    errno.EEXIST: "this path is a file; give a folder with --home.",
    errno.ENAMETOOLONG: "the path is too long; give a shorter one with --home.",
}


def prepare_home(home: Path) -> Path:
    """Create the folder, deny access to other users, check that it is writable. Returns its resolved path.

    Raises HomeError.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        home = home.resolve(strict=True)
        if _is_home(home):
            _make_private(home)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
        for name in ("logs", "kafka", "s3"):
            (home / name).mkdir(mode=PRIVATE, exist_ok=True)
            _make_private(home / name)
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


def _is_home(home: Path) -> bool:
    """Whether the folder is a home only. Shared folders such as /tmp keep their mode; their subfolders are private."""
    shared = bool(home.stat().st_mode & stat.S_ISVTX)
    return not shared and ((home / LOCK_FILE).exists() or not any(home.iterdir()))


def _make_private(folder: Path) -> None:
    """Deny access to other users. Homes of earlier versions allowed it."""
    if stat.S_IMODE(folder.stat().st_mode) != PRIVATE:
        folder.chmod(PRIVATE)


class HomeLock:
    """The lock of a home, held by its one stack. The system releases it when the process ends.

    filelock does not fit: it truncates the lock file before it has the lock, and the file names the holder.
    """

    def __init__(self, home: Path) -> None:
        """Acquire the lock. Raises HomeInUseError if another process has it."""
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
        """Release the lock. The file stays: otherwise two processes could lock two files of the same name."""
        self._file.close()


def lock_holder(home: Path) -> ProcessRef | None:
    """The process that last acquired the lock, according to the file."""
    try:
        content = json.loads((home / LOCK_FILE).read_text())
        return ProcessRef(pid=int(content["pid"]), created=float(content["created"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_home(home: Path) -> None:
    """Delete an unused home, with its external data folder. Raises HomeInUseError."""
    if not home.is_dir():
        return
    lock = HomeLock(home)
    try:
        external = external_folder(home / "postgres")
        if external is not None:
            shutil.rmtree(external)
        shutil.rmtree(home)
    finally:
        lock.release()
