"""Starts that meet an obstacle: a taken port, an interrupt, a broken folder, a full disk."""

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
from tests.integration.test_embedded_servers import ANSWERS, eventually, make_servers, running_postgres, surroundings

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as another user only where we are root")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield prepare_home(tmp_path / "home")
    remove_home(tmp_path / "home")


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with PostgreSQL's data already in it, for tests that only start and stop it."""
    home = prepare_home(tmp_path_factory.mktemp("used") / "home")
    with running_postgres(home):
        pass
    yield home
    remove_home(home)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can pass through, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="filemill-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class _Unlucky(PortAllocator):
    """Chooses ports that something else is about to take, as often as told."""

    def __init__(self, home: Path, taken: int, times: int) -> None:
        super().__init__(home, defaults=False)
        self.taken, self.times = taken, times

    def choose(self, server: str, ports: Any) -> dict[str, int]:
        chosen = super().allocate(server, ports)
        self.times -= 1
        return chosen if self.times < 0 else {**chosen, ports[0].name: self.taken}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", [Kafka, Postgres, SeaweedFS])
def test_a_port_lost_between_choosing_and_binding_is_replaced(home: Path, taken_port: int, kind: type[Server]) -> None:
    server = kind(surroundings(home, ports=_Unlucky(home, taken_port, times=1)))
    server.start()
    assert server.port != taken_port
    server.stop()


def test_a_server_that_was_up_does_not_move_to_another_port(used_home: Path) -> None:
    with running_postgres(used_home) as server:
        port = server.port
        server.stop()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((LOOPBACK, port))
            taken.listen()
            with pytest.raises(PortTakenError, match="a port is in use") as caught:
                server.start()
            assert str(port) in caught.value.where
            assert any("Address already in use" in line for line in caught.value.log)
        server.start()
        assert server.port == port


def test_a_taken_default_port_is_stepped_over(
    used_home: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (used_home / PORTS_FILE).unlink()
    monkeypatch.setattr(Postgres, "required_ports", (Port("postgres", default=taken_port),))
    with running_postgres(used_home, ports=PortAllocator(used_home)) as server:
        assert taken_port < server.port <= taken_port + 100


@pytest.mark.parametrize(
    ("kind", "moments"), [(Kafka, ("kafka/server.properties.new", "kafka/data")), (Postgres, ("postgres/data.new",))]
)
def test_a_start_given_up_at_any_moment_can_be_repeated(
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


def test_a_server_that_cannot_start_shows_why(home: Path) -> None:
    with running_postgres(home) as server:
        server.stop()
        (postgres_folders.find_data_directory(home / "postgres").data / "global" / "pg_control").unlink()
        with pytest.raises(StartError, match="ended while it was starting") as caught:
            server.start()
        assert any("pg_control" in line for line in caught.value.log)
        assert str(server.log_path) in caught.value.advice
        assert not server.is_alive()


def test_a_server_that_never_serves_is_given_up_and_stopped(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Postgres, "probe", lambda _self: "SELECT: not today")
    [server] = make_servers(used_home, Postgres)
    with pytest.raises(StartError, match="did not serve in time") as caught:
        server.start(seconds=0.5)
    assert "not today" in caught.value.where
    assert not server.is_alive()


def test_one_server_that_fails_stops_the_others(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: object) -> None:
        raise StartError("kafka is not in the mood")

    monkeypatch.setattr(Kafka, "prepare", refuse)
    group = EmbeddedServers(make_servers(home, Kafka, Postgres, SeaweedFS))
    with pytest.raises(StartError, match="mood"):
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
def test_a_disk_that_takes_nothing_is_named(tmp_path: Path, options: str, words: str) -> None:
    with _mounted(tmp_path / "disk", options), pytest.raises(HomeError, match=words):
        prepare_home(tmp_path / "disk" / "home")


@as_root
def test_a_disk_that_fills_up_during_the_start_is_named(open_folder: Path) -> None:
    with _mounted(open_folder / "disk", "size=24m,mode=755"):
        [server] = make_servers(open_folder / "disk", Postgres)
        with pytest.raises(StartError, match="initdb") as caught:
            server.start()
        assert any("No space left" in line for line in caught.value.log)
        assert "disk full" in caught.value.advice
