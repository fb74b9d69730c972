"""Open pages: one person or address has a limited number of them, in this process.

Each open page has a WebSocket, a script thread while it refreshes, and memory. A WebSocket is counted until it ends.
"""

import structlog
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from filemill.config.logging import LogRateLimit
from filemill.domain.limits import LimitExceeded, RateLimitPolicy, limit_key
from filemill.domain.permissions import ANONYMOUS
from filemill_dashboard.asgi.authentication import send_error
from filemill_dashboard.asgi.sign_in_page import too_many_pages_page
from filemill_dashboard.rest.errors import limit_response
from filemill_dashboard.state.identity import PRINCIPAL
from filemill_dashboard.state.open_pages import OpenPages

# When a page will be closed is unknown; the response asks a browser to try again after this time.
RETRY_AFTER_SECONDS = 5.0
REFUSALS_PER_MINUTE = 30

log = structlog.get_logger("open_pages")
_refusals = LogRateLimit(REFUSALS_PER_MINUTE, 60.0)


class OpenPagesLimit:
    """Middleware around the pages: refuses WebSockets above the limit, and says why where a page would be."""

    def __init__(self, app: ASGIApp, pages: OpenPages) -> None:
        self._app = app
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        key = limit_key(scope.get(PRINCIPAL, ANONYMOUS)) if scope["type"] in {"http", "websocket"} else None
        if key is None:
            await self._app(scope, receive, send)
        elif self._pages.is_full(key) and (scope["type"] == "websocket" or _is_page(scope)):
            await send_error(self._refusal(key, scope), scope, receive, send)
        elif scope["type"] == "websocket":
            self._pages.add(key)
            try:
                await self._app(scope, receive, send)
            finally:
                self._pages.remove(key)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, key: str, scope: Scope) -> Response:
        most = self._pages.most
        left_out = _refusals.admit()
        if left_out is not None:
            log.warning("Refused a page above the limit", principal=key, most=most, left_out=left_out)
        policy = RateLimitPolicy("open-pages", most, "concurrent-requests")
        reason = f"{most} of your pages are open, and at most {most} may be at the same time. Close some of them"
        response = limit_response(LimitExceeded(reason, "too_many_open_pages", policy, RETRY_AFTER_SECONDS))
        if scope["type"] == "websocket":
            return response
        # A reload comes before the WebSocket of the former page has ended, so the browser asks again.
        page = too_many_pages_page(reason, int(RETRY_AFTER_SECONDS))
        limits = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return HTMLResponse(page, response.status_code, limits)


def _is_page(scope: Scope) -> bool:
    return scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
