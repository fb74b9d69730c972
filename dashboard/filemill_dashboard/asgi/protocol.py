"""uvicorn's HTTP and WebSocket protocols, with the bounds of `filemill_dashboard.asgi.connections`.

uvicorn closes a connection that is kept alive and idle. It has no time-out for headers and bodies and no bound for the
size of headers. A request here costs two readings of the clock more; time-outs are looked for once a second.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from filemill_dashboard.asgi.connections import (
    BODY_BYTES_PER_SECOND,
    BODY_SECONDS,
    FIRST_MESSAGE_SECONDS,
    HEADERS_SECONDS,
    STALLED_SECONDS,
    Connections,
)

HEADERS_MAX_BYTES = 64 * 1024
# What a browser tells Streamlit is a few kilobytes.
MESSAGE_MAX_BYTES = 1024 * 1024
HEALTH_PATHS = (b"/healthz", b"/readyz")
CLOCK_TICKS = 10  # of a tenth of a second each


class BoundedConfig(uvicorn.Config):
    """uvicorn's configuration, and the connections that its protocols share."""

    def __init__(self, app: Any, connections: Connections, **given: Any) -> None:  # noqa: ANN401
        super().__init__(
            app, http=BoundedHttpProtocol, ws=BoundedWebSocketProtocol, ws_max_size=MESSAGE_MAX_BYTES, **given
        )
        self.open_connections = connections


class BoundedServer(uvicorn.Server):
    """uvicorn's server, which looks for time-outs once a second."""

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if counter % CLOCK_TICKS == 0:
            assert isinstance(self.config, BoundedConfig)
            self.config.open_connections.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)


class _Refused(Exception):
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
        # The client owes the headers, then the body; then we owe an answer.
        self._awaits_headers = True
        self._awaits_body = False
        self._answering = False
        self._only_health = False
        self._refusal = 0
        self._received = 0
        # Bytes since the last one that the parser handed on.
        self._unparsed = 0

    @property
    def peer(self) -> str:
        """The address at the other end."""
        return self.client[0] if self.client else ""

    @property
    def waits_since(self) -> float | None:
        """Since when the client owes something."""
        return self._since if self._awaits_headers or self._awaits_body or self.flow.write_paused else None

    def is_overdue(self, now: float) -> bool:
        """Whether the client has taken too long."""
        waited = now - self._since
        if self._awaits_headers:
            return waited > HEADERS_SECONDS
        if self.flow.write_paused:
            return now - self._stalled_since > STALLED_SECONDS
        if self._awaits_body and not self.flow.read_paused:
            return waited > BODY_SECONDS + self._received / BODY_BYTES_PER_SECOND
        return False

    def time_out(self) -> None:
        """Close it: silently where nothing was sent, as a browser opens connections in advance."""
        if self.flow.write_paused:
            self.transport.abort()
        elif self._unparsed or not self._awaits_headers:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def drop(self) -> None:
        """Close it at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._only_health = not self._registry.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._registry.release(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client takes less than we send."""
        self._stalled_since = self.loop.time()
        super().pause_writing()

    def data_received(self, data: bytes) -> None:
        """Some bytes are here."""
        if self._refusal:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > HEADERS_MAX_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The parser has all headers of a request."""
        if self._unparsed > HEADERS_MAX_BYTES:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > HEADERS_MAX_BYTES:
                self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                raise _Refused
        if self._only_health and self.url.partition(b"?")[0] not in HEALTH_PATHS:
            self._refusal = HTTPStatus.SERVICE_UNAVAILABLE
            raise _Refused
        self._unparsed = self._received = 0
        self._since = self.loop.time()
        self._awaits_headers, self._awaits_body, self._answering = False, True, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """The parser has a part of a body."""
        self._unparsed = 0
        self._received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser has all of a request."""
        self._unparsed = 0
        self._awaits_body = False
        if not self._answering:
            self._await_next()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is written; the next request may have been read already."""
        super().on_response_complete()
        self._answering = not self.cycle.response_complete
        if not self._answering and not self._awaits_body:
            self._await_next()

    def handle_websocket_upgrade(self) -> None:
        """The other protocol goes on."""
        self._registry.release(self)
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - it says `Invalid HTTP request received.`
        """Called where parsing has ended with an error, or by `_Refused`."""
        status, self._refusal = self._refusal or HTTPStatus.BAD_REQUEST, 0
        self._refuse(HTTPStatus(status))

    def _await_next(self) -> None:
        self._awaits_headers = True
        self._since = self.loop.time()

    def _refuse(self, status: HTTPStatus) -> None:
        """Close it, with this answer where none has begun."""
        if self._refusal or self.transport.is_closing():
            return
        self._refusal = status
        if not self._answering or not self.cycle.response_started:
            self.transport.write(_answer(status))
        self.transport.close()


class BoundedWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. uvicorn asks it for a sign of life by itself; it must also say something at its start."""

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
    def waits_since(self) -> float | None:
        """Since when it is open without having said anything."""
        return self._since

    def is_overdue(self, now: float) -> bool:
        """Whether it has been silent for too long."""
        return self._since is not None and now - self._since > FIRST_MESSAGE_SECONDS

    def time_out(self) -> None:
        """Close it."""
        self.transport.close()

    def drop(self) -> None:
        """Close it at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The HTTP connection asks to be a WebSocket."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._registry.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._registry.release(self)
        super().connection_lost(exc)

    def send_receive_event_to_app(self) -> None:
        """A whole message is here."""
        self._since = None
        super().send_receive_event_to_app()


def _answer(status: HTTPStatus) -> bytes:
    text = f"{status.value} {status.phrase}\n"
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: text/plain; charset=utf-8",
        f"content-length: {len(text)}",
        "connection: close",
        *(["retry-after: 2"] if status is HTTPStatus.SERVICE_UNAVAILABLE else []),
    ]
    return "\r\n".join([*lines, "", text]).encode()
