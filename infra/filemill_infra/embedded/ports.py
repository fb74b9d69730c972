"""Which port each server listens on.

A home that was used before keeps its ports, so that bookmarks and clients stay right. Otherwise a server gets its
default port or the next free one, and ports that nobody connects to by hand are drawn at random.

Drawn ports lie below the range from which the system gives ports to outgoing connections. A port from within it can be
taken by any client while its server is down, a client that retries a dead loopback port can even connect to itself:
then the server could not come back to its port, and faults are what this project is for.
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

_LOWEST_DRAWN = 10_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_START = 32_768  # where the system does not say: Linux begins here, the others later
_NEIGHBOURS = 100
_DRAWS = 1_000


@dataclass(frozen=True)
class Port:
    """A port that a server needs: `default` is tried first; at `twin` beyond it another must be free as well."""

    name: str
    default: int | None = None
    paired_offset: int = 0


class PortAllocator:
    """Chooses ports for the servers of one home and remembers them there. Safe to use from several threads."""

    def __init__(self, home: Path, *, defaults: bool = True) -> None:
        """Without `defaults` all ports are drawn, for stacks that come and go beside others."""
        self._path = home / PORTS_FILE
        self._defaults = defaults
        self._lock = threading.Lock()
        self._allocated: dict[str, dict[str, int]] = {}
        self._saved = self._read()

    def allocate(self, server: str, ports: Sequence[Port]) -> dict[str, int]:
        """A free port for each of `ports`, by name. Asked again for the same server, it gives others."""
        with self._lock:
            refused = set(self._allocated.pop(server, {}).values())
            taken = refused | {port for given in self._allocated.values() for port in given.values()}
            remembered = self._saved.get(server, {})
            chosen: dict[str, int] = {}
            for port in ports:
                chosen[port.name] = self._choose(port, remembered.get(port.name), taken)
                taken |= {chosen[port.name], chosen[port.name] + port.paired_offset}
            self._allocated[server] = chosen
            return dict(chosen)

    def save(self, server: str) -> None:
        """Keep what was chosen for `server` for the next start; called once it listens there."""
        with self._lock:
            self._saved[server] = self._allocated[server]
            draft = self._path.with_name(PORTS_FILE + ".new")
            draft.write_text(json.dumps(self._saved, indent=2))
            draft.replace(self._path)

    def _choose(self, port: Port, remembered: int | None, taken: set[int]) -> int:
        candidates = [remembered] if remembered else []
        if port.default and self._defaults:
            candidates += range(port.default, port.default + _NEIGHBOURS)
        top = _first_ephemeral()
        candidates += (random.randrange(_LOWEST_DRAWN, top) for _ in range(_DRAWS))
        for candidate in candidates:
            wanted = {candidate, candidate + port.paired_offset}
            if not wanted & taken and all(map(is_free, wanted)):
                return candidate
        raise StartError(
            "No free port was found", where=f"{LOOPBACK}, ports {_LOWEST_DRAWN} to {top}", advice="end what uses them."
        )

    def _read(self) -> dict[str, dict[str, int]]:
        try:
            content = json.loads(self._path.read_text())
            return {
                str(server): {str(name): int(port) for name, port in ports.items()} for server, ports in content.items()
            }
        except (OSError, ValueError, AttributeError):
            return {}  # a lost memory costs a port number, not a start


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback address now."""
    if not 0 < port < 65_536:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that linger after an end are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    # Elsewhere than on Linux a listener on all addresses does not forbid ours, but clients would be in doubt.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((LOOPBACK, port)) != 0


def _first_ephemeral() -> int:
    try:
        first = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_START
    return first if first > _LOWEST_DRAWN + _DRAWS else _EPHEMERAL_START
