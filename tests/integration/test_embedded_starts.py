"""Starts with problems: a port in use, an interrupt, a damaged folder, a full disk."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from filemill_infra.embedded.errors import CancelledError, HomeError, PortTakenError, StartError
from filemill_infra.embedded.home import prepare_home, remove_home
from filemill_infra.embedded.ports import LOOPBACK, PORTS_FILE, Port, PortAllocator
from filemill_infra.embedded.servers import postgres_folders
from filemill_infra.embedded.servers.group import EmbeddedServers
from filemill_infra.embedded.servers.kafka import Kafka
from filemill_infra.embedded.servers.postgres import Postgres
from filemill_infra.embedded.servers.seaweed import SeaweedFS
from filemill_infra.embedded.servers.server import Server
from tests.integration.test_embedded_servers import ANSWERS, eventually, make_servers, running_postgres, server_context

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as another account only for root")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield prepare_home(tmp_path / "home")
    remove_home(tmp_path / "home")


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with PostgreSQL data, for tests that only start and stop the server."""
    home = prepare_home(tmp_path_factory.mktemp("used") / "home")
    with running_postgres(home):
        pass
    yield home
    remove_home(home)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can enter, unlike pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="filemill-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class _TakenPorts(PortAllocator):
    """Allocates a port that is in use, `times` times."""

    def __init__(self, home: Path, taken: int, times: int) -> None:
        super().__init__(home, defaults=False)
        self.taken, self.times = taken, times

    def allocate(self, server: str, ports: Any) -> dict[str, int]:
        allocated = super().allocate(server, ports)
        self.times -= 1
        return allocated if self.times < 0 else {**allocated, ports[0].name: self.taken}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", [Kafka, Postgres, SeaweedFS])
def test_a_port_that_is_taken_before_binding_is_replaced(home: Path, taken_port: int, kind: type[Server]) -> None:
    ports = _TakenPorts(home, taken_port, times=1)
    server = kind(server_context(home, ports=ports))
    server.start()
    assert server.port != taken_port
    assert ports.times < 0
    server.stop()


def test_a_server_that_was_up_keeps_its_port(used_home: Path) -> None:
    with running_postgres(used_home) as server:
        port = server.port
        server.stop()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((LOOPBACK, port))
            taken.listen()
            with pytest.raises(PortTakenError, match="a port is already in use") as caught:
                server.start()
            assert str(port) in caught.value.where
            assert any("Address already in use" in line for line in caught.value.log)
        server.start()
        assert server.port == port


def test_a_default_port_in_use_is_skipped(used_home: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (used_home / PORTS_FILE).unlink()
    monkeypatch.setattr(Postgres, "required_ports", (Port("postgres", default=taken_port),))
    with running_postgres(used_home, ports=PortAllocator(used_home)) as server:
        assert taken_port < server.port <= taken_port + 100


@pytest.mark.parametrize(
    ("kind", "moments"), [(Kafka, ("kafka/server.properties.new", "kafka/data")), (Postgres, ("postgres/data.new",))]
)
def test_a_start_that_was_cancelled_at_any_moment_can_be_repeated(
    home: Path, kind: type[Server], moments: tuple[str, ...]
) -> None:
    for moment in moments:
        cancelled, spawned = threading.Event(), list[int]()
        [server] = make_servers(
            home, kind, cancelled=cancelled, on_spawn=lambda pid, _signal, into=spawned: into.append(pid)
        )
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(server.start)
            eventually((home / moment).exists)
            cancelled.set()
            with pytest.raises(CancelledError):
                starting.result()
        assert not any(psutil.pid_exists(pid) for pid in spawned)
    [server] = make_servers(home, kind)
    server.start()
    assert ANSWERS[kind.name](server.settings())
    server.kill()


def test_a_failed_start_shows_the_servers_log(home: Path) -> None:
    with running_postgres(home) as server:
        server.stop()
        (postgres_folders.find_data_directory(home / "postgres").data / "global" / "pg_control").unlink()
        with pytest.raises(StartError, match="ended during its start") as caught:
            server.start()
        assert any("pg_control" in line for line in caught.value.log)
        assert str(server.log_path) in caught.value.advice
        assert not server.is_alive()


def test_a_server_that_is_never_ready_is_stopped(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Postgres, "probe", lambda _self: "SELECT: not ready")
    [server] = make_servers(used_home, Postgres)
    with pytest.raises(StartError, match="was not ready in time") as caught:
        server.start(seconds=0.5)
    assert "not ready" in caught.value.where
    assert not server.is_alive()


def test_if_one_server_fails_the_others_are_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object) -> None:
        raise StartError("kafka cannot start")

    monkeypatch.setattr(Kafka, "prepare", fail)
    group = EmbeddedServers(make_servers(home, Kafka, Postgres, SeaweedFS))
    with pytest.raises(StartError, match="cannot start"):
        group.start()
    assert not any(server.is_alive() for server in group)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this process may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@as_root
@pytest.mark.parametrize(("options", "words"), [("ro", "read-only"), ("size=8m", "the disk is full")])
def test_a_disk_that_is_not_writable_is_an_error_that_names_it(tmp_path: Path, options: str, words: str) -> None:
    with _mounted(tmp_path / "disk", options), pytest.raises(HomeError, match=words):
        prepare_home(tmp_path / "disk" / "home")


@as_root
def test_a_disk_that_fills_up_during_the_start_is_an_error(open_folder: Path) -> None:
    with _mounted(open_folder / "disk", "size=24m,mode=755"):
        [server] = make_servers(open_folder / "disk", Postgres)
        with pytest.raises(StartError, match="initdb") as caught:
            server.start()
        assert any("No space left" in line for line in caught.value.log)
        assert "disk full" in caught.value.advice
