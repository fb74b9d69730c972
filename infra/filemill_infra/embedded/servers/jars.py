"""Apache Kafka's jars: downloaded by jgo once per user, pinned by hash, and installed all or none.

`kafka.lock` has the sha256 of every jar, so that the tested jars are used and no dependencies are resolved at run time,
which takes four times as long as the download. `python -m filemill_infra.embedded.servers.jars` writes it.
"""

import contextlib
import fcntl
import hashlib
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path

from filemill_infra.embedded.errors import DownloadError

KAFKA_VERSION = "4.4.0"
LOCK = Path(__file__).with_name("kafka.lock")

# Resolved separately: log4j's dependency management would replace Kafka's versions, including kafka-clients.
_ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5")
_DOWNLOADS_AT_ONCE = 6
_TIMEOUT_SECONDS = 20
_POLL_SECONDS = 0.2


class Jar(NamedTuple):
    """One line of the lock file, or an archive of a Maven repository."""

    group: str
    artifact: str
    version: str
    sha256: str
    packaging: str = "jar"

    @property
    def file(self) -> str:
        """Its file name in the cache."""
        return f"{self.artifact}-{self.version}.{self.packaging}"


class DownloadProgress(NamedTuple):
    """The progress of the download."""

    done: int
    total: int
    received_bytes: int


def default_cache() -> Path:
    """The user's cache folder. It is relative if the user has no home folder."""
    return user_cache_path("filemill", appauthor=False)


def usable_cache(home: Path) -> Path:
    """The user's cache folder; if it is not writable, as for an account without a home folder, one in `home`."""
    cache = default_cache()
    if not cache.is_absolute():
        return home / "cache"
    try:
        existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    except OSError:
        return home / "cache"
    return cache if os.access(existing, os.W_OK | os.X_OK) else home / "cache"


def locked_jars(lock: Path) -> list[Jar]:
    """The jars of the lock file, in the order of the class path."""
    jars = []
    for line in lock.read_text().splitlines():
        if line and not line.startswith("#"):
            coordinate, digest = line.split()
            group, artifact, number = coordinate.split(":")
            jars.append(Jar(group, artifact, number, digest))
    return jars


def installed_jars(
    cache: Path, progress: Callable[[DownloadProgress], None] = lambda _progress: None, lock: Path | None = None
) -> list[Path]:
    """The paths of the jars of the lock file, by default the broker's; they are downloaded if necessary.

    The folder's name contains the lock file's hash. The folder appears when all jars are in it and have been checked,
    so an interrupted download is never used. An exception of `progress` cancels the download. Raises DownloadError.
    """
    lock = lock or LOCK
    jars = locked_jars(lock)
    name = f"{lock.stem}-{KAFKA_VERSION}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    folder = cache / name
    if not folder.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _exclusive_lock(cache / f".{name}.lock"):
                if not folder.is_dir():
                    _download(jars, folder, progress)
        except OSError as error:
            raise DownloadError(
                f"The jars of Apache Kafka could not be stored: {error.strerror or error}",
                where=str(cache),
                advice="make room or make the folder writable, or set XDG_CACHE_HOME to another one.",
            ) from error
    return [folder / jar.file for jar in jars]


@contextlib.contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    """Hold a lock, so that of two starts only one downloads. The system releases it if the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(jars: list[Jar], folder: Path, progress: Callable[[DownloadProgress], None]) -> None:
    for leftover in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        done, received = 0, 0
        progress(DownloadProgress(0, len(jars), 0))
        for size in _fetch_all(jars, staging):
            done, received = done + (size > 0), received + size
            progress(DownloadProgress(done, len(jars), received))
        shutil.rmtree(staging / "repository")
        staging.chmod(0o755)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fetch_all(jars: list[Jar], staging: Path) -> Iterator[int]:
    """Download several jars at once; yields the bytes of each, and 0 at intervals, so that it can be cancelled."""
    waiting: queue.SimpleQueue[Jar] = queue.SimpleQueue()
    finished: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()
    for jar in jars:
        waiting.put(jar)

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while staging.is_dir():
                jar = waiting.get_nowait()
                try:
                    finished.put(fetch(jar, staging))
                except Exception as error:  # noqa: BLE001 - raised where the results are read
                    finished.put(error)

    # Daemon threads, unlike a pool's: a dead connection must not delay the end of a cancelled start.
    for number in range(_DOWNLOADS_AT_ONCE):
        threading.Thread(target=work, name=f"jars-{number}", daemon=True).start()
    left = len(jars)
    while left:
        try:
            outcome = finished.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            yield 0
            continue
        if isinstance(outcome, Exception):
            raise outcome
        left -= 1
        yield outcome


def fetch(jar: Jar, staging: Path) -> int:
    """Download a jar by jgo into `staging` and check its hash; returns its size in bytes. Raises DownloadError."""
    # Imported here: they take 0.3 s, and a warm start does not need them.
    from jgo.config import GlobalSettings  # noqa: PLC0415
    from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415
    from jgo.maven import MavenContext  # noqa: PLC0415

    # Repositories of the user's jgo configuration come first, for example a company's mirror.
    repositories = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    context = MavenContext(repo_cache=staging / "repository", remote_repos=repositories, timeout=_TIMEOUT_SECONDS)
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact(packaging=jar.packaging)
    try:
        path = artifact.resolve()
    except Exception as error:  # jgo raises RuntimeError, requests its own family, urllib3 sometimes too
        raise DownloadError(
            f"{jar.file} could not be downloaded: {error}",
            where=", ".join(repositories.values()),
            advice="It is downloaded at the first start. Check the network, a proxy (HTTPS_PROXY) and "
            "its certificates (REQUESTS_CA_BUNDLE), or name a mirror under [repositories] in ~/.config/jgo.conf.",
        ) from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != jar.sha256:
        raise DownloadError(
            f"{jar.file} has another hash: sha256 {digest}, expected {jar.sha256}",
            where=", ".join(repositories.values()),
            advice="a proxy or mirror changes files; download from another repository.",
        )
    with path.open("rb") as file:
        os.fsync(file.fileno())  # otherwise it could be empty after a power failure
    return path.rename(staging / jar.file).stat().st_size


def main() -> None:
    """Resolve the dependencies of the pinned versions and write the lock file."""
    import jgo  # noqa: PLC0415

    found = {(one.groupId, one.artifactId): one for root in reversed(_ROOTS) for one in jgo.resolve(root)}
    lines = [
        f"{group}:{name}:{one.version} {hashlib.sha256(one.resolve().read_bytes()).hexdigest()}"
        for (group, name), one in sorted(found.items())
    ]
    head = f"# Written by `python -m filemill_infra.embedded.servers.jars` from {' and '.join(_ROOTS)}."
    LOCK.write_text("\n".join([head, *lines]) + "\n")


if __name__ == "__main__":
    main()
