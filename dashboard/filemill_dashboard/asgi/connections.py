"""Limits on the connections to the page's port: their number, and the time that a client may take.

A client that sends its request a byte at a time, or not at all, uses as much as any other client. Enough of them would
block everybody else. Three limits keep the page and its health checks reachable:

- time: for the headers, for the body, for a WebSocket's first message, for reading a response;
- number, in total and per address: at the limit, the connections that have waited longest for their client are closed;
- a reserve: if no connection can be closed, a few more are accepted for health checks only.
"""

import resource
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Protocol

import structlog

from filemill.config.settings import Settings
from filemill.domain.origins import client_key
from filemill_dashboard.asgi.proxies import TrustedProxies

# Connections beyond the limits, accepted for health checks.
RESERVE = 32
# Open files that this process needs besides connections: its clients of three servers, and the files that it reads.
FILES_FOR_OTHERS = 256
FILES_WANTED = 65_536
CONNECTIONS_MIN = 64
# Several at once, because finding the longest waiting ones means looking at all connections.
CLOSED_AT_ONCE = 16
REPORT_SECONDS = 10.0
SWEEP_LATE_SECONDS = 3.0

log = structlog.get_logger("connections")


class Connection(Protocol):
    """A connection as the limits need it."""

    @property
    def peer(self) -> str:
        """The address at the other end."""

    @property
    def waiting_since(self) -> float | None:
        """Since when the server waits for the client; None while the client waits for the server."""

    def is_overdue(self, now: float) -> bool:
        """Whether the client has taken too long."""

    def time_out(self) -> None:
        """Close it, with an error response if one can still be sent."""

    def drop(self) -> None:
        """Close it at once."""


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections are accepted, in total and from one address."""

    total: int
    per_address: int


@dataclass(frozen=True)
class Timeouts:
    """How long a client may take. For a body: `body_seconds`, plus one second for each `body_bytes_per_second`.

    `first_message_seconds` is for a WebSocket; `stalled_seconds` for a response that the client does not read.
    """

    headers_seconds: float = 10.0
    body_seconds: float = 30.0
    body_bytes_per_second: int = 4096
    first_message_seconds: float = 10.0
    stalled_seconds: float = 60.0


class Connections:
    """The open connections. Only for the event loop's thread."""

    def __init__(
        self,
        limits: ConnectionLimits,
        proxies: TrustedProxies,
        timeouts: Timeouts = Timeouts(),
    ) -> None:
        self.timeouts = timeouts
        self._limits = limits
        self._proxies = proxies
        self._by_client: dict[str, set[Connection]] = {}
        self._count = 0
        self._closed: Counter[str] = Counter()
        self._reported_at = self._swept_at = float("-inf")

    def __len__(self) -> int:
        return self._count

    def admit(self, connection: Connection) -> bool:
        """Register a new connection. False: the limit is reached, and it may only send health checks."""
        peer = connection.peer
        group = self._by_client.setdefault(client_key(peer), set())
        full = len(group) >= self._limits.per_address and peer not in self._proxies
        if full:
            self._evict(group)
            full = len(group) >= self._limits.per_address
        elif self._count >= self._limits.total:
            self._evict(one for each in self._by_client.values() for one in each)
        full = full or self._count >= self._limits.total
        self.add(connection)
        if full:
            self._closed["rejected"] += 1
            if self._count > self._limits.total + RESERVE or len(group) > self._limits.per_address + RESERVE:
                self._drop(connection)
        return not full

    def add(self, connection: Connection) -> None:
        """Register a connection without checking the limits: a WebSocket was admitted as an HTTP connection."""
        self._by_client.setdefault(client_key(connection.peer), set()).add(connection)
        self._count += 1

    def release(self, connection: Connection) -> None:
        """Remove a connection; may be repeated."""
        key = client_key(connection.peer)
        group = self._by_client.get(key)
        if group is None or connection not in group:
            return
        group.remove(connection)
        self._count -= 1
        if not group:
            del self._by_client[key]

    def sweep(self, now: float) -> None:
        """Close overdue connections. Called once a second. After a late call nothing is closed: the server was slow."""
        late, self._swept_at = now - self._swept_at > SWEEP_LATE_SECONDS, now
        if late:
            return
        overdue = [one for group in self._by_client.values() for one in group if one.is_overdue(now)]
        for connection in overdue:
            connection.time_out()
        self._closed["timed_out"] += len(overdue)
        if self._closed.total() and now - self._reported_at >= REPORT_SECONDS:
            counts = {reason: number for reason, number in self._closed.items() if number}
            log.warning("Closed connections of slow clients or beyond the limits", open=self._count, **counts)
            self._closed.clear()
            self._reported_at = now

    def _evict(self, connections: Iterable[Connection]) -> None:
        waiting = [(since, one) for one in connections if (since := one.waiting_since) is not None]
        for _, connection in nsmallest(CLOSED_AT_ONCE, waiting, key=lambda pair: pair[0]):
            self._drop(connection)
            self._closed["evicted"] += 1

    def _drop(self, connection: Connection) -> None:
        self.release(connection)
        connection.drop()


def connection_limits(settings: Settings) -> ConnectionLimits:
    """The limits that the settings and the limit of open files allow; raises the soft limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = FILES_WANTED if soft == resource.RLIM_INFINITY else soft
    total = max(CONNECTIONS_MIN, min(settings.connections_max, files - FILES_FOR_OTHERS - RESERVE))
    return ConnectionLimits(total, min(settings.connections_per_address, max(1, total * 3 // 4)))
