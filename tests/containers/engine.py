"""A Docker engine for the tests: a running one, or one that the tests start as root if dockerd is installed.

The tests' own engine keeps its images in the user's cache folder, so that only the first run builds them. It ends with
the tests. Its containers and volumes are removed when it starts.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filemill_infra.embedded.processes.watchdog_client import Watchdog
from filemill_infra.embedded.servers.jars import default_cache
from tests.containers import host_network

# The first Debian that has Compose v2 as a package.
COMPOSE_SUITE = "trixie"
DEBIAN_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
COMPOSE = "github.com/docker/compose/v2"
COMPOSE_VERSION = "v2.32.4"
START_SECONDS = 60.0
STOP_SECONDS = 60.0
LOCK_SECONDS = 900.0
ANSWER_SECONDS = 30.0
DOWNLOAD_SECONDS = 120.0
BUILD_SECONDS = 900.0


class NoEngine(Exception):
    """There is no Docker engine; the text gives the reason."""


class Engine:
    """A running engine. `own`: the tests have started it."""

    def __init__(self, *, own: bool) -> None:
        self.own = own

    def docker(self, *arguments: str, timeout: float = ANSWER_SECONDS, stdin: bytes | None = None) -> str:
        """Run `docker …`; returns its standard output. Raises subprocess.CalledProcessError and TimeoutExpired."""
        return _run("docker", *arguments, timeout=timeout, stdin=stdin)

    def has(self, image: str) -> bool:
        """Whether the engine has the image."""
        return _succeeds("docker", "image", "inspect", image)


def skip_or_fail(reason: str) -> None:
    """Skip the test; fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"CI needs a Docker engine: {reason}")
    pytest.skip(reason)


@contextlib.contextmanager
def running_engine() -> Iterator[Engine]:
    """An engine with Compose v2; environment variables lead `docker` to it. Raises NoEngine."""
    if shutil.which("docker") is None:
        raise NoEngine("there is no `docker` command")
    with contextlib.ExitStack() as stack:
        engine = Engine(own=False)
        if not _succeeds("docker", "version"):
            stack.enter_context(_own_engine())
            engine = Engine(own=True)
        if not _succeeds("docker", "compose", "version"):
            _install_compose(stack)
        yield engine


@contextlib.contextmanager
def _own_engine() -> Iterator[None]:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NoEngine("no Docker engine is running, and only root can start one")
    if shutil.which("dockerd") is None:
        raise NoEngine("no Docker engine is running, and dockerd is not installed (Debian: apt install docker.io)")
    folder = default_cache() / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        _locked(folder / "lock"),
        host_network.restored(),
        tempfile.TemporaryDirectory(prefix="filemill-engine-") as run,
    ):
        log = folder / "dockerd.log"
        socket = f"unix://{run}/docker.sock"
        watchdog = Watchdog(Path(run) / "watchdog.log", f"engine-{os.getpid()}")
        watchdog.start()
        with log.open("wb") as output:
            argv = ["dockerd", "--host", socket, "--data-root", str(folder / "data"), "--exec-root", f"{run}/exec"]
            process = subprocess.Popen([*argv, "--pidfile", f"{run}/pid"], stdout=output, stderr=output)
        watchdog.watch(process.pid, 15)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DOCKER_HOST", socket)
                patch.setenv("DOCKER_BUILDKIT", "0")  # Debian's engine has no buildx
                _wait(lambda: _succeeds("docker", "version") or process.poll() is not None, START_SECONDS)
                if not _succeeds("docker", "version"):
                    raise NoEngine(f"dockerd did not start:\n{_tail(log)}")
                _clear()
                yield
                _clear()
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            watchdog.release(process.pid)
            watchdog.close()
            _unmount(run)


def _unmount(folder: str) -> None:
    """Unmount file systems that dockerd left in the folder, such as network namespaces, so that it can be removed."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in reversed(mounted):
        if path.startswith(f"{folder}/"):
            _succeeds("umount", "--lazy", path)


def _clear() -> None:
    """Remove containers, volumes and networks of an earlier run."""
    ids = _run("docker", "ps", "--all", "--quiet").split()
    if ids:
        _run("docker", "rm", "--force", "--volumes", *ids, timeout=STOP_SECONDS)
    volumes = _run("docker", "volume", "ls", "--quiet").split()
    if volumes:
        _run("docker", "volume", "rm", "--force", *volumes, timeout=STOP_SECONDS)
    _run("docker", "network", "prune", "--force")


def _install_compose(stack: contextlib.ExitStack) -> None:
    """Install Compose v2, which older distributions do not have. Raises NoEngine."""
    plugins = default_cache() / "compose" / "cli-plugins"
    plugin = plugins / "docker-compose"
    if not plugin.is_file():
        plugins.mkdir(parents=True, exist_ok=True)
        draft = plugin.with_suffix(".new")
        reasons = []
        for get in (_unpack_compose, _build_compose):
            try:
                get(draft)
            except (OSError, subprocess.SubprocessError) as error:
                reasons.append(f"{error}\n{getattr(error, 'stderr', '')}")
            else:
                draft.rename(plugin)
                break
        else:
            raise NoEngine("\n".join(["`docker compose` (Compose v2) is missing and cannot be installed:", *reasons]))
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    patch.setenv("DOCKER_CONFIG", str(plugins.parent))


def _unpack_compose(target: Path) -> None:
    """Extract it from the package of a newer Debian, with separate package lists; takes ten seconds."""
    with tempfile.TemporaryDirectory(prefix="filemill-compose-") as folder:
        root = Path(folder)
        for part in ("lists/partial", "cache/archives/partial"):
            (root / part).mkdir(parents=True)
        (root / "sources.list").write_text(f"deb {_debian()} {COMPOSE_SUITE} main\n")
        options = {
            "Dir::Etc::SourceList": root / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::State::Lists": root / "lists",
            "Dir::Cache": root / "cache",
            "APT::Sandbox::User": "root",  # the folder is private
        }
        apt = ["apt-get", "--quiet", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
        _run(*apt, "update", timeout=DOWNLOAD_SECONDS)
        _run(*apt, "download", "docker-compose", timeout=DOWNLOAD_SECONDS, cwd=root)
        (package,) = map(str, root.glob("*.deb"))
        _run("dpkg-deb", "--extract", package, str(root / "unpacked"))
        shutil.copy(root / "unpacked/usr/libexec/docker/cli-plugins/docker-compose", target)


def _debian() -> str:
    """The source of Debian's packages on this machine, with its key. Raises OSError."""
    targets = _run("apt-get", "indextargets", "--format", "$(LABEL)\t$(SIGNED_BY)\t$(REPO_URI)", "Created-By: Packages")
    for line in targets.splitlines():
        label, key, url = line.split("\t")
        if label == "Debian":
            keyring = DEBIAN_KEYS if key.startswith("$") else key
            return f"[signed-by={keyring}] {url}"
    raise FileNotFoundError("this machine has no package source of Debian")


def _build_compose(target: Path) -> None:
    """Build it from Go's module proxy: two minutes on two cores."""
    with tempfile.TemporaryDirectory(prefix="filemill-compose-") as folder:
        published = _run("go", "mod", "download", "-json", f"{COMPOSE}@{COMPOSE_VERSION}", timeout=300, cwd=folder)
        source = Path(folder) / "compose"
        shutil.copytree(json.loads(published)["Dir"], source, copy_function=shutil.copyfile)
        for one in (source, *source.rglob("*/")):  # Go's cache is read-only
            one.chmod(0o755)
        # Without the driver for Kubernetes and without optimization: half the compile time.
        drivers = source / "pkg" / "compose" / "build_buildkit.go"
        kept = [line for line in drivers.read_text().splitlines() if 'driver/kubernetes"' not in line]
        drivers.write_text("\n".join(kept) + "\n")
        linked = f"-ldflags=-s -w -X {COMPOSE}/internal.Version={COMPOSE_VERSION}"
        build = ["go", "build", "-gcflags=all=-N -l", linked, "-o", str(target), "./cmd"]
        _run(*build, timeout=BUILD_SECONDS, cwd=source)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock, so that the tests start one engine at a time: two would share a bridge and its addresses."""
    with path.open("w") as file:

        def acquired() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        _wait(acquired, LOCK_SECONDS)
        yield


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NoEngine(f"no Docker engine after {seconds:g} s")
        time.sleep(0.2)


def _succeeds(*argv: str) -> bool:
    try:
        _run(*argv)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _run(*argv: str, timeout: float = ANSWER_SECONDS, stdin: bytes | None = None, cwd: str | Path | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, timeout=timeout, check=True, input=stdin or b"", cwd=cwd)
    return done.stdout.decode(errors="replace")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])
