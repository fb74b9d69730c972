"""The request filter in front of REST, assets, health checks, pages and WebSockets.

It rejects requests that a browser sends on behalf of a foreign web page:

- A Host that is not ours. With DNS rebinding, an attacker points a DNS name at this machine, so that the attacker's
  page is same-origin with ours. Its Host header still has the attacker's name.
- An Origin that is not exactly ours, for a WebSocket or a method that changes something. Each port of 127.0.0.1 is a
  separate origin.
- A request that the browser marks as cross-site (Fetch Metadata), except navigation to a page.

Programs send no Origin and no Fetch Metadata, so they are not affected.
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
# `same-site` is another port or subdomain. On loopback, that may be any other program.
FOREIGN_SITES = frozenset({"cross-site", "same-site"})
QUOTED_LENGTH = 100


@dataclass(frozen=True)
class RejectedRequest:
    """Why a request is rejected: the HTTP status and the error of its body."""

    status: int
    code: str
    message: str


class RequestFilter:
    """Middleware: passes allowed requests on and responds to all others with an error."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._proxies = TrustedProxies(settings.trusted_proxy_networks)
        public = parse_origin(settings.public_url) if settings.public_url else None
        names = {settings.host.lower(), *settings.allowed_host_names, *([public.host] if public else [])}
        self._public = public
        self._check_host = lru_cache(maxsize=256)(lambda host, local: _check_host(host, local, frozenset(names)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or reject one request or WebSocket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        self._proxies.apply(scope)
        rejection = self._check(scope)
        if rejection is None:
            await self._app(scope, receive, send)
        else:
            await _respond(rejection, scope, receive, send)

    def _check(self, scope: Scope) -> RejectedRequest | None:
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
            return None  # a simple health check; no browser uses HTTP/1.0
        if len(hosts) != 1:
            return RejectedRequest(400, "bad_host", "a request must have exactly one Host header")
        local = scope["server"][0] if scope.get("server") else ""
        host = self._check_host(hosts[0][: 4 * QUOTED_LENGTH], local)
        if isinstance(host, RejectedRequest):
            return host
        if any(site in FOREIGN_SITES for site in fetch.get(b"site", ())) and not _is_navigation(scope, fetch):
            return RejectedRequest(403, "cross_site", "requests from pages of other sites are rejected")
        if origins and (scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS):
            return self._check_origin(origins, host, scope)
        return None

    def _check_origin(self, origins: list[bytes], host: Authority, scope: Scope) -> RejectedRequest | None:
        origin = parse_origin(origins[0].decode("latin-1")) if len(origins) == 1 else None
        if origin is None or origin not in self._own_origins(host, scope["scheme"]):
            return RejectedRequest(
                403,
                "cross_origin",
                f"requests from pages of {_quoted(b', '.join(origins))} are rejected. A reverse proxy in front "
                "must pass the Host header, and FILEMILL_PUBLIC_URL must be the URL that browsers use",
            )
        if scope["type"] == "websocket":
            _align_host(scope, origin)
        return None

    def _own_origins(self, host: Authority, scheme: str) -> set[Origin]:
        """The origins that our pages have if their requests carry this Host."""
        scheme = "https" if scheme in {"https", "wss"} else "http"
        own = {Origin(scheme, host.host, host.port or DEFAULT_PORTS[scheme])}
        if host.port == DEFAULT_PORTS["https"]:  # a proxy that terminates TLS and shows it by the port alone
            own.add(Origin("https", host.host, host.port))
        if self._public is not None:
            own.add(self._public)
        return own


def _check_host(header: bytes, local: str, names: frozenset[str]) -> Authority | RejectedRequest:
    """The parsed Host if it names this server. An IP address is accepted if the connection came in on it."""
    host = parse_host(header.decode("latin-1"))
    if host is not None:
        address = parse_ip(host.host)
        if is_loopback_name(host.host) or host.host in names or (address is not None and address == parse_ip(local)):
            return host
    return RejectedRequest(
        421,
        "host_not_allowed",
        f"this server is not known as {_quoted(header)}. To serve that name, set FILEMILL_PUBLIC_URL or add it "
        "to FILEMILL_ALLOWED_HOSTS",
    )


def _is_navigation(scope: Scope, fetch: dict[bytes, list[str]]) -> bool:
    """Whether the user opened a link in a tab, which is allowed from other sites. A frame is not."""
    return (
        scope["type"] == "http"
        and scope["method"] in {"GET", "HEAD"}
        and fetch.get(b"mode") == ["navigate"]
        and fetch.get(b"dest") == ["document"]
    )


def _align_host(scope: Scope, origin: Origin) -> None:
    """Make Host and Origin equal as text, because Streamlit compares them so.

    If they differ, Streamlit looks up this machine's address on the internet, on the event loop, for up to 2 s.
    """
    name = f"[{origin.host}]" if ":" in origin.host else origin.host
    written = name if origin.port == DEFAULT_PORTS[origin.scheme] else f"{name}:{origin.port}"
    replaced = {b"host": written.encode(), b"origin": f"{origin.scheme}://{written}".encode()}
    scope["headers"] = [(key, replaced.get(key, value)) for key, value in scope["headers"]]


def _quoted(header: bytes) -> str:
    """A header's value for a message: cut, and without terminal escapes."""
    text = header.decode("latin-1")
    return ascii(text if len(text) <= QUOTED_LENGTH else f"{text[:QUOTED_LENGTH]}…")


async def _respond(rejection: RejectedRequest, scope: Scope, receive: Receive, send: Send) -> None:
    wants_page = any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
    response: Response = (
        PlainTextResponse(f"{rejection.message}\n", rejection.status)
        if wants_page
        else error_response(rejection.status, rejection.code, rejection.message)
    )
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    await response(scope, receive, send)  # Starlette sends it as `websocket.http.response.*` if needed
