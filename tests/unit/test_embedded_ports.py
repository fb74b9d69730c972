"""The allocation of the embedded servers' ports."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from filemill_infra.embedded.ports import LOOPBACK, PORTS_FILE, Port, PortAllocator, is_free


@contextmanager
def _listening(port: int = 0) -> Iterator[int]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((LOOPBACK, port))
        server.listen()
        yield server.getsockname()[1]


def _random_port(tmp_path: Path) -> int:
    return PortAllocator(tmp_path, defaults=False).allocate("any", [Port("one")])["one"]


def test_a_free_default_port_is_allocated(tmp_path: Path) -> None:
    default = _random_port(tmp_path)
    assert PortAllocator(tmp_path).allocate("kafka", [Port("broker", default)]) == {"broker": default}


def test_if_the_default_port_is_in_use_the_next_free_one_is_allocated(tmp_path: Path) -> None:
    with _listening(_random_port(tmp_path)) as taken:
        chosen = PortAllocator(tmp_path).allocate("kafka", [Port("broker", taken)])["broker"]
    assert taken < chosen <= taken + 100


def test_a_home_keeps_its_ports(tmp_path: Path) -> None:
    first = PortAllocator(tmp_path, defaults=False)
    chosen = first.allocate("kafka", [Port("broker", 29092), Port("controller")])
    first.save("kafka")
    assert PortAllocator(tmp_path).allocate("kafka", [Port("broker", 29092), Port("controller")]) == chosen


def test_a_saved_port_that_is_in_use_is_replaced(tmp_path: Path) -> None:
    first = PortAllocator(tmp_path, defaults=False)
    kept = first.allocate("kafka", [Port("broker")])["broker"]
    first.save("kafka")
    with _listening(kept):
        assert PortAllocator(tmp_path, defaults=False).allocate("kafka", [Port("broker")])["broker"] != kept


def test_a_second_allocation_returns_other_ports(tmp_path: Path) -> None:
    allocator = PortAllocator(tmp_path, defaults=False)
    first = allocator.allocate("kafka", [Port("broker")])
    assert allocator.allocate("kafka", [Port("broker")]) != first


def test_no_port_is_allocated_twice(tmp_path: Path) -> None:
    default = _random_port(tmp_path)
    allocator = PortAllocator(tmp_path)
    given = [
        port for name in ("a", "b", "c") for port in allocator.allocate(name, [Port("x", default), Port("y")]).values()
    ]
    assert len(set(given)) == len(given)


def test_the_paired_port_is_free_too(tmp_path: Path) -> None:
    base = PortAllocator(tmp_path, defaults=False).allocate("any", [Port("one", paired_offset=10_000)])["one"]
    with _listening(base + 10_000):
        chosen = PortAllocator(tmp_path).allocate("s3", [Port("admin", base, paired_offset=10_000)])["admin"]
    assert chosen != base
    assert is_free(chosen + 10_000)


def test_random_ports_are_below_the_ephemeral_range(tmp_path: Path) -> None:
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if first_ephemeral < 20_000:
        pytest.skip("the ephemeral range of this system begins too low")
    assert all(_random_port(tmp_path) < first_ephemeral for _ in range(20))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kafka": 1}', '{"kafka": {"broker": "x"}}', "\0"])
def test_an_invalid_ports_file_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / PORTS_FILE).write_text(content)
    allocator = PortAllocator(tmp_path, defaults=False)
    chosen = allocator.allocate("kafka", [Port("broker")])
    allocator.save("kafka")
    assert json.loads((tmp_path / PORTS_FILE).read_text()) == {"kafka": chosen}


@pytest.mark.parametrize("port", [-1, 0, 65_536])
def test_an_invalid_port_is_not_free(port: int) -> None:
    assert not is_free(port)
