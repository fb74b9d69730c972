"""The gate in front of everything that the page's port serves: REST, assets, health checks, pages and WebSockets.

It refuses what only a foreign web page in somebody's browser would send:

- A Host that is not ours. A DNS name that its owner points at this machine (DNS rebinding) makes his page same-origin
  with ours, but its Host header still has his name.
- An Origin that is not exactly ours, for a WebSocket or a method that changes something. Each port of 127.0.0.1 is an
  origin of its own.
- What a browser itself marks as coming from another site (Fetch Metadata), but for links that are followed to us.

Programs send no Origin and no Fetch Metadata, and are not affected.
"""

from dataclasses import dataclass
from functools import lru_cache

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from filemill.config.settings import Settings
from filemill.domain.origins import (
    DEFAULT_PORTS,
    Authority,
    Origin,
    is_loopback_name,
    parse_host,
    parse_ip,
    parse_origin,
)
from filemill_dashboard.asgi.proxies import TrustedProxies
from filemill_dashboard.rest.errors import error_response

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# `same-site` is another port or subdomain: on loopback, any other program's page.
FOREIGN_SITES = frozenset({"cross-site", "same-site"})
SHOWN_LENGTH = 100


@dataclass(frozen=True)
class Rejection:
    """Why a request is not served."""

    status: int
    code: str
    message: str


class RequestFilter:
    """Middleware: hands on what may be served, and answers the rest itself."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._proxies = TrustedProxies(settings.trusted_proxy_networks)
        public = parse_origin(settings.public_url) if settings.public_url else None
        names = {settings.host.lower(), *settings.allowed_host_names, *([public.host] if public else [])}
        self._public = public
        self._judge_host = lru_cache(maxsize=256)(lambda host, local: _judge_host(host, local, frozenset(names)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request or WebSocket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        self._proxies.apply(scope)
        refusal = self._examine(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await _answer(refusal, scope, receive, send)

    def _examine(self, scope: Scope) -> Rejection | None:
        hosts: list[bytes] = []
        origins: list[bytes] = []
        fetch: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
            elif name.startswith(b"sec-fetch-"):
                fetch.setdefault(name[10:], []).append(value.decode("latin-1").strip().lower())
        if not hosts and scope.get("http_version") == "1.0" and not origins:
            return None  # a simple health check; no browser speaks HTTP/1.0
        if len(hosts) != 1:
            return Rejection(400, "bad_host", "a request must have exactly one Host header")
        local = scope["server"][0] if scope.get("server") else ""
        host = self._judge_host(hosts[0][: 4 * SHOWN_LENGTH], local)
        if isinstance(host, Rejection):
            return host
        if any(site in FOREIGN_SITES for site in fetch.get(b"site", ())) and not _is_navigation(scope, fetch):
            return Rejection(403, "cross_site", "requests from pages of other sites are refused")
        if origins and (scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS):
            return self._judge_origin(origins, host, scope)
        return None

    def _judge_origin(self, origins: list[bytes], host: Authority, scope: Scope) -> Rejection | None:
        origin = parse_origin(origins[0].decode("latin-1")) if len(origins) == 1 else None
        if origin is None or origin not in self._ours(host, scope["scheme"]):
            return Rejection(
                403,
                "cross_origin",
                f"requests from pages of {_shown(b', '.join(origins))} are refused. If a reverse proxy is in front, it "
                "must pass the Host header, and FILEMILL_PUBLIC_URL must be the URL that browsers use",
            )
        if scope["type"] == "websocket":
            _align_host(scope, origin)
        return None

    def _ours(self, host: Authority, scheme: str) -> set[Origin]:
        """The origins that a page of ours has when its requests come with this Host."""
        scheme = "https" if scheme in {"https", "wss"} else "http"
        ours = {Origin(scheme, host.host, host.port or DEFAULT_PORTS[scheme])}
        if host.port == DEFAULT_PORTS["https"]:  # a proxy that ends TLS, and says so by the port alone
            ours.add(Origin("https", host.host, host.port))
        if self._public is not None:
            ours.add(self._public)
        return ours


def _judge_host(header: bytes, local: str, names: frozenset[str]) -> Authority | Rejection:
    """What the Host header names, where that is this server. An address counts where the connection came in on it."""
    host = parse_host(header.decode("latin-1"))
    if host is not None:
        address = parse_ip(host.host)
        if is_loopback_name(host.host) or host.host in names or (address is not None and address == parse_ip(local)):
            return host
    return Rejection(
        421,
        "host_not_allowed",
        f"this server is not known as {_shown(header)}. To serve that name, set FILEMILL_PUBLIC_URL or add it "
        "to FILEMILL_ALLOWED_HOSTS",
    )


def _is_navigation(scope: Scope, fetch: dict[bytes, list[str]]) -> bool:
    """Whether somebody follows a link to us in a tab, which other sites may do. A frame is none."""
    return (
        scope["type"] == "http"
        and scope["method"] in {"GET", "HEAD"}
        and fetch.get(b"mode") == ["navigate"]
        and fetch.get(b"dest") == ["document"]
    )


def _align_host(scope: Scope, origin: Origin) -> None:
    """Give Streamlit a Host that is the origin's as text: that is how it compares them.

    Where they differ it would look up this machine's address on the internet, on the event loop, for up to 2 s.
    """
    name = f"[{origin.host}]" if ":" in origin.host else origin.host
    written = name if origin.port == DEFAULT_PORTS[origin.scheme] else f"{name}:{origin.port}"
    replaced = {b"host": written.encode(), b"origin": f"{origin.scheme}://{written}".encode()}
    scope["headers"] = [(key, replaced.get(key, value)) for key, value in scope["headers"]]


def _shown(header: bytes) -> str:
    """A header's value for people: bounded, and nothing in it that a terminal would obey."""
    text = header.decode("latin-1")
    return ascii(text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…")


async def _answer(refusal: Rejection, scope: Scope, receive: Receive, send: Send) -> None:
    wants_page = any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
    response: Response = (
        PlainTextResponse(f"{refusal.message}\n", refusal.status)
        if wants_page
        else error_response(refusal.status, refusal.code, refusal.message)
    )
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    await response(scope, receive, send)  # Starlette sends it as `websocket.http.response.*` where that is needed
