"""Tells Streamlit's front end where its server is.

Without it, the front end of a page such as /pipeline looks for the server below /pipeline first. These requests fail,
delay the page by a round trip, and are errors in the browser's console.
"""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SCRIPT = "window.__streamlit = { BACKEND_BASE_URL: location.origin };"
_ELEMENT = f"<script>{SCRIPT}</script>".encode()
_BEFORE = b"<head>"


class BaseUrl:
    """Middleware: adds the script to the HTML of pages. All other responses pass unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        if scope["type"] != "http" or not _asks_for_a_page(scope):
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        page = _Page(send)
        await self._app({**scope, "headers": headers}, receive, page.send)


class _Page:
    """Collects the body of an HTML response, which is short, and sends it with the script."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_html(message):
            self._start = message
        elif self._start is None or message["type"] != "http.response.body":
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        body = self._body.replace(_BEFORE, _BEFORE + _ELEMENT, 1)
        headers = MutableHeaders(scope=start)
        if self._body:
            headers["content-length"] = str(len(body))
        else:  # the response to a HEAD request
            del headers["content-length"]
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


def _asks_for_a_page(scope: Scope) -> bool:
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


def _is_html(start: Message) -> bool:
    return MutableHeaders(scope=start).get("content-type", "").startswith("text/html")
