"""Unreachable servers: the error names server, address and remedy within a bounded time, without a traceback."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from filemill.config.settings import as_environment
from tests.acceptance.command import filemill, slowdown
from tests.servers import RunningServers, isolated_settings

# On an idle machine a command ends within ten seconds. Other processes may suspend it for as long again.
WITHIN_SECONDS = 30.0


@pytest.fixture(scope="module")
def environment(servers: RunningServers) -> dict[str, str]:
    """The environment of prepared servers; a test replaces the address of one of them."""
    return as_environment(isolated_settings(servers))


@pytest.fixture
def unused_address() -> Iterator[str]:
    """An address without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address that accepts connections and never responds."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def environment_for(server: str, address: str) -> dict[str, str]:
    host, port = address.split(":")
    return {
        "Kafka": {"FILEMILL_KAFKA_BROKER": address},
        "PostgreSQL": {"FILEMILL_DATABASE_HOST": host, "FILEMILL_DATABASE_PORT": port},
        "S3": {"FILEMILL_S3_ENDPOINT": f"http://{address}"},
    }[server]


COMMANDS = [("Kafka", "topics list"), ("Kafka", "verify"), ("PostgreSQL", "files"), ("S3", "prepare --patience 0")]


@pytest.mark.parametrize("kind", ["unused_address", "silent_address"])
def test_an_unreachable_server_is_named_in_time(
    environment: dict[str, str], kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    address: str = request.getfixturevalue(kind)

    def run(case: tuple[str, str]) -> tuple[str, float, int, str]:
        server, command = case
        began = time.monotonic()
        where = {**environment, **environment_for(server, address)}
        done = filemill(*command.split(), home=tmp_path, environment=where)
        return server, time.monotonic() - began, done.returncode, done.stderr

    before = slowdown()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, COMMANDS))
    within = WITHIN_SECONDS * max(before, slowdown())
    for (server, took, code, said), (_, command) in zip(results, COMMANDS, strict=True):
        assert code == 3, f"{command}: {said}"
        assert f"{server} at" in said, f"{command} does not name it: {said}"
        assert address in said, f"{command} does not say where: {said}"
        assert "filemill doctor" in said, f"{command} does not say what to do: {said}"
        assert "Traceback" not in said
        assert took < within, f"{command} took {took:.1f} s, not {within:.1f}"


def test_the_doctor_names_every_unreachable_server_and_a_remedy(unused_address: str, tmp_path: Path) -> None:
    where = (
        environment_for("Kafka", unused_address)
        | environment_for("PostgreSQL", unused_address)
        | environment_for("S3", unused_address)
    )
    within = WITHIN_SECONDS * slowdown()
    began = time.monotonic()
    done = filemill("doctor", home=tmp_path, environment=where)
    assert done.returncode == 1
    assert time.monotonic() - began < within
    for server in ("PostgreSQL", "Kafka", "S3"):
        assert f"MISSING  {server}" in done.stdout
    assert done.stdout.count(unused_address) >= 3
    assert "filemill up" in done.stdout


def test_invalid_settings_are_named(tmp_path: Path) -> None:
    wrong = {"FILEMILL_PORT": "abc", "S3_ENDPOINT": "ftp://x", "FILEMILL_CONCURRENCY": "0"}
    done = filemill("files", home=tmp_path, environment=wrong)
    assert done.returncode == 2
    for name in ("FILEMILL_PORT", "FILEMILL_S3_ENDPOINT", "FILEMILL_CONCURRENCY"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = filemill("up", "--home", str(tmp_path / "file"), "--port", "0", home=tmp_path)
    assert done.returncode == 1
    assert str(tmp_path / "file") in done.stderr
    assert "--home" in done.stderr
    assert "Traceback" not in done.stderr
