"""Allocation of the servers' ports.

A home keeps its ports, so that bookmarks and clients stay valid. In a new home, a server gets its default port or the
next free one; internal ports are random.

Random ports are below the range of ephemeral ports. While a server is down, any client could get an ephemeral port, and
a client that retries a loopback port can even connect to itself. Then the server could not bind its port again.
"""

import json
import random
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filemill_infra.embedded.errors import StartError

LOOPBACK = "127.0.0.1"
PORTS_FILE = "ports.json"

_LOWEST_RANDOM = 10_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_START = 32_768  # if the system does not say: Linux begins here, others later
_ALTERNATIVES = 100
_RANDOM_ATTEMPTS = 1_000


@dataclass(frozen=True)
class Port:
    """A port that a server needs. `default` is tried first; the port plus `paired_offset` must be free as well."""

    name: str
    default: int | None = None
    paired_offset: int = 0


class PortAllocator:
    """Allocates ports for the servers of a home and saves them there. Safe to use from several threads."""

    def __init__(self, home: Path, *, defaults: bool = True) -> None:
        """Without `defaults`, all ports are random, for temporary stacks."""
        self._path = home / PORTS_FILE
        self._defaults = defaults
        self._lock = threading.Lock()
        self._allocated: dict[str, dict[str, int]] = {}
        self._saved = self._read()

    def allocate(self, server: str, ports: Sequence[Port]) -> dict[str, int]:
        """A free port for each of `ports`, by name; each call for the same server returns others. Raises StartError."""
        with self._lock:
            rejected = set(self._allocated.pop(server, {}).values())
            taken = rejected | {port for allocated in self._allocated.values() for port in allocated.values()}
            saved = self._saved.get(server, {})
            chosen: dict[str, int] = {}
            for port in ports:
                chosen[port.name] = self._choose(port, saved.get(port.name), taken)
                taken |= {chosen[port.name], chosen[port.name] + port.paired_offset}
            self._allocated[server] = chosen
            return dict(chosen)

    def save(self, server: str) -> None:
        """Save the ports of `server` for the next start; called when the server listens."""
        with self._lock:
            self._saved[server] = self._allocated[server]
            draft = self._path.with_name(PORTS_FILE + ".new")
            draft.write_text(json.dumps(self._saved, indent=2))
            draft.replace(self._path)

    def _choose(self, port: Port, saved: int | None, taken: set[int]) -> int:
        candidates = [saved] if saved else []
        if port.default and self._defaults:
            candidates += range(port.default, port.default + _ALTERNATIVES)
        top = _first_ephemeral()
        candidates += (random.randrange(_LOWEST_RANDOM, top) for _ in range(_RANDOM_ATTEMPTS))
        for candidate in candidates:
            wanted = {candidate, candidate + port.paired_offset}
            if not wanted & taken and all(map(is_free, wanted)):
                return candidate
        raise StartError(
            "No free port was found", where=f"{LOOPBACK}, ports {_LOWEST_RANDOM} to {top}", advice="end what uses them."
        )

    def _read(self) -> dict[str, dict[str, int]]:
        try:
            content = json.loads(self._path.read_text())
            return {
                str(server): {str(name): int(port) for name, port in ports.items()} for server, ports in content.items()
            }
        except (OSError, ValueError, AttributeError):
            return {}  # a start is possible without it, with other ports


def is_free(port: int) -> bool:
    """Whether a server can listen on `port` of the loopback address."""
    if not 0 < port < 65_536:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT do not prevent binding.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    # Except on Linux, a listener on all addresses does not prevent binding, but could get our clients' connections.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((LOOPBACK, port)) != 0


def _first_ephemeral() -> int:
    try:
        first = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_START
    return first if first > _LOWEST_RANDOM + _RANDOM_ATTEMPTS else _EPHEMERAL_START
