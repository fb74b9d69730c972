"""Requests that a program on this machine sent directly: they may see addresses and error details.

Behind a proxy every request comes from the proxy's address, so the address alone proves nothing.
"""

from starlette.requests import Request

from filemill.domain.origins import is_loopback_name, parse_host

# Each of these shows that a request came through a proxy, trusted or not.
FORWARDING_HEADERS = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)


def is_direct_from_this_machine(request: Request) -> bool:
    """Whether a program on this machine sent the request, without a proxy in between."""
    client, host = request.client, parse_host(request.headers.get("host", ""))
    return (
        client is not None
        and is_loopback_name(client.host)
        and (host is None or is_loopback_name(host.host))
        and FORWARDING_HEADERS.isdisjoint(name for name, _ in request.scope["headers"])
    )
