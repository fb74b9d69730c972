"""Connections to the page's port: bounded in number, and in the time that a client may take for its part.

A client that opens a connection owes a request. One that sends it a byte at a time, or not at all, costs as much as one
that works: with enough of them nobody else gets in. Three bounds keep the page and its health checks reachable:

- time: for the headers, for the body, for a WebSocket's first message, for taking an answer;
- number, in all and for each address: where it is reached, those that have waited longest for their client are closed;
- a reserve: where there is nothing to close, a few more connections are accepted for health checks alone.
"""

import resource
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Protocol

import structlog

from filemill.config.settings import Settings
from filemill.domain.origins import parse_ip
from filemill_dashboard.asgi.proxies import TrustedProxies

HEADERS_SECONDS = 10.0
# A body has this long, and a second more for each so many bytes of it.
BODY_SECONDS = 30.0
BODY_BYTES_PER_SECOND = 4096
FIRST_MESSAGE_SECONDS = 10.0
# An answer that a client does not take.
STALLED_SECONDS = 60.0

# Connections beyond the bounds that are accepted for health checks.
RESERVE = 32
# Files that this process needs beside connections: its clients of three servers, and what it reads.
FILES_FOR_OTHERS = 256
FILES_WANTED = 65_536
CONNECTIONS_MIN = 64
# Room is made for more than one at a time: looking for those that have waited longest means looking at all.
CLOSED_AT_ONCE = 16
REPORT_SECONDS = 10.0
SWEEP_LATE_SECONDS = 3.0

log = structlog.get_logger("connections")


class Connection(Protocol):
    """What a bound is applied to."""

    @property
    def peer(self) -> str:
        """The address at the other end."""

    @property
    def waits_since(self) -> float | None:
        """Since when the client owes something; None while we do."""

    def is_overdue(self, now: float) -> bool:
        """Whether the client has taken too long."""

    def time_out(self) -> None:
        """Close it with an answer, if one can be given."""

    def drop(self) -> None:
        """Close it at once."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Connections that are accepted, in all and of one address."""

    total: int
    per_address: int


class Connections:
    """The connections that are open. For the event loop's thread."""

    def __init__(self, bounds: ConnectionLimits, proxies: TrustedProxies) -> None:
        self._bounds = bounds
        self._proxies = proxies
        self._groups: dict[str, set[Connection]] = {}
        self._count = 0
        self._closed: Counter[str] = Counter()
        self._reported_at = self._swept_at = float("-inf")

    def __len__(self) -> int:
        return self._count

    def admit(self, connection: Connection) -> bool:
        """Count a new connection in. False where there is no room, and it may only ask whether we live."""
        peer = connection.peer
        group = self._groups.setdefault(_group_of(peer), set())
        full = len(group) >= self._bounds.per_address and peer not in self._proxies
        if full:
            self._make_room(group)
            full = len(group) >= self._bounds.per_address
        elif self._count >= self._bounds.total:
            self._make_room(one for each in self._groups.values() for one in each)
        full = full or self._count >= self._bounds.total
        self.add(connection)
        if full:
            self._closed["turned away"] += 1
            if self._count > self._bounds.total + RESERVE or len(group) > self._bounds.per_address + RESERVE:
                self._drop(connection)
        return not full

    def add(self, connection: Connection) -> None:
        """Count a connection in, whatever the bounds say: one that becomes a WebSocket was admitted already."""
        self._groups.setdefault(_group_of(connection.peer), set()).add(connection)
        self._count += 1

    def release(self, connection: Connection) -> None:
        """Count a connection out; may be repeated."""
        key = _group_of(connection.peer)
        group = self._groups.get(key)
        if group is None or connection not in group:
            return
        group.remove(connection)
        self._count -= 1
        if not group:
            del self._groups[key]

    def sweep(self, now: float) -> None:
        """Close what has taken too long. Called once a second: a late call means that we were slow, not the clients."""
        late, self._swept_at = now - self._swept_at > SWEEP_LATE_SECONDS, now
        if late:
            return
        overdue = [one for group in self._groups.values() for one in group if one.is_overdue(now)]
        for connection in overdue:
            connection.time_out()
        self._closed["timed out"] += len(overdue)
        if self._closed.total() and now - self._reported_at >= REPORT_SECONDS:
            counts = {reason.replace(" ", "_"): number for reason, number in self._closed.items() if number}
            log.warning("Connections were closed: slow clients, or too many of them", open=self._count, **counts)
            self._closed.clear()
            self._reported_at = now

    def _make_room(self, connections: Iterable[Connection]) -> None:
        waiting = [(since, one) for one in connections if (since := one.waits_since) is not None]
        for _, connection in nsmallest(CLOSED_AT_ONCE, waiting, key=lambda pair: pair[0]):
            self._drop(connection)
            self._closed["closed for others"] += 1

    def _drop(self, connection: Connection) -> None:
        self.release(connection)
        connection.drop()


def connection_limits(settings: Settings) -> ConnectionLimits:
    """What the settings and this process's limit of open files allow; raises that limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = FILES_WANTED if soft == resource.RLIM_INFINITY else soft
    total = max(CONNECTIONS_MIN, min(settings.connections_max, files - FILES_FOR_OTHERS - RESERVE))
    return ConnectionLimits(total, min(settings.connections_per_address, max(1, total * 3 // 4)))


def _group_of(peer: str) -> str:
    """Whom a connection is counted for. One machine has 2^64 IPv6 addresses."""
    if ":" not in peer:
        return peer
    address = parse_ip(peer.partition("%")[0])
    return peer if address is None or address.version == 4 else ":".join(address.exploded.split(":")[:4])
