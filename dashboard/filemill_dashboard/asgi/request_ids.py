"""The id of each request: in its response, in the audit log and in log lines.

A client or a trusted proxy that gets an id with an error can name it; `filemill audit list` and the logs show what the
request did.
"""

import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from filemill.domain.permissions import RequestSource
from filemill_dashboard.asgi.proxies import TrustedProxies
from filemill_dashboard.state.identity import REQUEST_ID

HEADER = b"x-request-id"
# What proxies generate: hexadecimal digits, UUIDs, trace ids. Nothing that a log or a terminal could misread.
_VALID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:=+/-]{0,99}")
ID_BYTES = 12


class RequestIds:
    """Middleware: gives each request and WebSocket an id, and each response a header with it.

    A valid `X-Request-Id` of a trusted proxy is kept. Others choose no id: the audit log would have what they want.
    """

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = self._id_of(scope)
        scope[REQUEST_ID] = request_id
        header = (HEADER, request_id.encode())

        async def with_id(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await self._app(scope, receive, with_id)

    def _id_of(self, scope: Scope) -> str:
        given = [value for name, value in scope["headers"] if name == HEADER]
        client = scope.get("client")
        if len(given) == 1 and client and client[0] in self._proxies and _VALID.fullmatch(given[0]):
            return str(given[0], "ascii")
        return secrets.token_hex(ID_BYTES)


def address_of(scope: Scope) -> str:
    """The client's address, as the request filter determined it."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def source_of(scope: Scope, authentication: str = "") -> RequestSource:
    """Where a request comes from, for the audit log."""
    return RequestSource(authentication, address_of(scope), scope.get(REQUEST_ID, ""))
