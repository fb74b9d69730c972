"""uvicorn's HTTP and WebSocket protocols, with the limits of `filemill_dashboard.asgi.connections`.

uvicorn itself closes idle keep-alive connections. It has no timeout for headers and bodies, and no limit for the size
of headers. The limits cost two clock readings per request; timeouts are checked once a second.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from filemill_dashboard.asgi.connections import Connections

HEADERS_MAX_BYTES = 64 * 1024
# A browser sends Streamlit a few kilobytes.
MESSAGE_MAX_BYTES = 1024 * 1024
HEALTH_PATHS = (b"/healthz", b"/readyz")
CLOCK_TICKS = 10  # of a tenth of a second each


class BoundedConfig(uvicorn.Config):
    """uvicorn's configuration with the connections that its protocols share."""

    def __init__(self, app: Any, connections: Connections, **given: Any) -> None:  # noqa: ANN401
        super().__init__(
            app, http=BoundedHttpProtocol, ws=BoundedWebSocketProtocol, ws_max_size=MESSAGE_MAX_BYTES, **given
        )
        self.open_connections = connections


class BoundedServer(uvicorn.Server):
    """uvicorn's server; checks timeouts once a second."""

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if counter % CLOCK_TICKS == 0:
            assert isinstance(self.config, BoundedConfig)
            self.config.open_connections.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)


class _Rejected(Exception):
    """Ends the parsing of a request."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, BoundedConfig)
        self._registry = config.open_connections
        self._since = 0.0
        self._stalled_since = 0.0
        # The server waits for headers, then for the body; then the client waits for the response.
        self._awaiting_headers = True
        self._awaiting_body = False
        self._responding = False
        self._health_checks_only = False
        self._rejected_with = 0
        self._received = 0
        # Bytes received since the parser last completed headers or a part of a body.
        self._unparsed = 0

    @property
    def peer(self) -> str:
        """The address at the other end."""
        return self.client[0] if self.client else ""

    @property
    def waiting_since(self) -> float | None:
        """Since when the server waits for the client."""
        return self._since if self._awaiting_headers or self._awaiting_body or self.flow.write_paused else None

    def is_overdue(self, now: float) -> bool:
        """Whether the client has taken too long."""
        waited, timeouts = now - self._since, self._registry.timeouts
        if self._awaiting_headers:
            return waited > timeouts.headers_seconds
        if self.flow.write_paused:
            return now - self._stalled_since > timeouts.stalled_seconds
        if self._awaiting_body and not self.flow.read_paused:
            return waited > timeouts.body_seconds + self._received / timeouts.body_bytes_per_second
        return False

    def time_out(self) -> None:
        """Close it; without a response if nothing was sent, because browsers open connections in advance."""
        if self.flow.write_paused:
            self.transport.abort()
        elif self._unparsed or not self._awaiting_headers:
            self._reject(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def drop(self) -> None:
        """Close it at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._health_checks_only = not self._registry.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It was closed."""
        self._registry.release(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads less than we send."""
        self._stalled_since = self.loop.time()
        super().pause_writing()

    def data_received(self, data: bytes) -> None:
        """Bytes were received."""
        if self._rejected_with:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > HEADERS_MAX_BYTES:
            self._reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The parser has read all headers of a request."""
        if self._unparsed > HEADERS_MAX_BYTES:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > HEADERS_MAX_BYTES:
                self._rejected_with = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                raise _Rejected
        if self._health_checks_only and self.url.partition(b"?")[0] not in HEALTH_PATHS:
            self._rejected_with = HTTPStatus.SERVICE_UNAVAILABLE
            raise _Rejected
        self._unparsed = self._received = 0
        self._since = self.loop.time()
        self._awaiting_headers, self._awaiting_body, self._responding = False, True, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """The parser has read a part of a body."""
        self._unparsed = 0
        self._received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser has read a whole request."""
        self._unparsed = 0
        self._awaiting_body = False
        if not self._responding:
            self._await_next()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response was sent; the next request may already be here."""
        super().on_response_complete()
        self._responding = not self.cycle.response_complete
        if not self._responding and not self._awaiting_body:
            self._await_next()

    def handle_websocket_upgrade(self) -> None:
        """The WebSocket protocol takes over."""
        self._registry.release(self)
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - always `Invalid HTTP request received.`
        """Called after a parser error, also one raised as `_Rejected`."""
        status, self._rejected_with = self._rejected_with or HTTPStatus.BAD_REQUEST, 0
        self._reject(HTTPStatus(status))

    def _await_next(self) -> None:
        self._awaiting_headers = True
        self._since = self.loop.time()

    def _reject(self, status: HTTPStatus) -> None:
        """Close it, with this status unless a response has started."""
        if self._rejected_with or self.transport.is_closing():
            return
        self._rejected_with = status
        if not self._responding or not self.cycle.response_started:
            self.transport.write(_plain_response(status))
        self.transport.close()


class BoundedWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. uvicorn pings it; besides, the client must send a first message in time."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, BoundedConfig)
        self._registry = config.open_connections
        self._since: float | None = None

    @property
    def peer(self) -> str:
        """The address at the other end."""
        return self.client[0] if self.client else ""

    @property
    def waiting_since(self) -> float | None:
        """Since when it is open without a message from the client; None after the first one."""
        return self._since

    def is_overdue(self, now: float) -> bool:
        """Whether the first message is overdue."""
        return self._since is not None and now - self._since > self._registry.timeouts.first_message_seconds

    def time_out(self) -> None:
        """Close it."""
        self.transport.close()

    def drop(self) -> None:
        """Close it at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The HTTP connection was upgraded."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._registry.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It was closed."""
        self._registry.release(self)
        super().connection_lost(exc)

    def send_receive_event_to_app(self) -> None:
        """A whole message was received."""
        self._since = None
        super().send_receive_event_to_app()


def _plain_response(status: HTTPStatus) -> bytes:
    text = f"{status.value} {status.phrase}\n"
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: text/plain; charset=utf-8",
        f"content-length: {len(text)}",
        "connection: close",
        *(["retry-after: 2"] if status is HTTPStatus.SERVICE_UNAVAILABLE else []),
    ]
    return "\r\n".join([*lines, "", text]).encode()
