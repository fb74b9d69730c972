"""Trusted reverse proxies: the client's address and scheme from X-Forwarded-For and X-Forwarded-Proto.

The headers of other senders than `FILEMILL_TRUSTED_PROXIES` are ignored.
"""

import ipaddress
from collections.abc import Iterable

from starlette.types import Scope

from filemill.domain.origins import parse_ip

HOPS_MAX = 20
# The key of the connection's other end in the scope; the client's address may be that of X-Forwarded-For.
PEER = "filemill.peer"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The addresses and networks of trusted proxies; without any, no scope is changed."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: list[Network] = [ipaddress.ip_network(network) for network in networks]

    def __contains__(self, host: str) -> bool:
        address = parse_ip(host)
        return address is not None and any(
            address in network for network in self._networks if network.version == address.version
        )

    def apply(self, scope: Scope) -> None:
        """Put the client's address and scheme into the scope if the request came from a trusted proxy."""
        client = scope.get("client")
        scope[PEER] = client[0] if client else ""
        if not self._networks or not client or client[0] not in self:
            return
        hops, schemes = [], []
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                hops += value.decode("latin-1").split(",")
            elif name == b"x-forwarded-proto":
                schemes.append(value.strip().lower())
        address = self._client_of(hops[-HOPS_MAX:])
        if address is not None:
            scope["client"] = (address, 0)
        if schemes in ([b"http"], [b"https"]):
            secure, plain = ("wss", "ws") if scope["type"] == "websocket" else ("https", "http")
            scope["scheme"] = secure if schemes == [b"https"] else plain

    def _client_of(self, hops: list[str]) -> str | None:
        """The last address that is not a trusted proxy's. A client can forge the addresses before it."""
        nearest = None
        for hop in reversed(hops):
            address = parse_ip(hop.strip())
            if address is None:
                return nearest
            nearest = str(address)
            if nearest not in self:
                return nearest
        return nearest
