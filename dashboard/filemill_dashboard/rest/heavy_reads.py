"""Heavy reads: one person or address has a limited number of exports at the same time, in this process.

An export reads all rows that match, for minutes if there are millions. It is counted until its response has ended.
"""

from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from filemill.domain.limits import LimitExceeded, RateLimitPolicy, limit_key
from filemill.domain.permissions import ANONYMOUS
from filemill_dashboard.rest.errors import limit_response
from filemill_dashboard.state.identity import PRINCIPAL

HEAVY_PATHS = frozenset({"/api/files/export", "/api/audit/export"})
RETRY_AFTER_SECONDS = 2.0


class HeavyReads:
    """Middleware: refuses a heavy read while the principal has as many as it may. 0: it may have any number."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._active: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        key = None
        if self._most and scope["type"] == "http" and scope["path"] in HEAVY_PATHS:
            key = limit_key(scope.get(PRINCIPAL, ANONYMOUS))
        if key is None:
            await self._app(scope, receive, send)
            return
        if self._active[key] >= self._most:
            policy = RateLimitPolicy("heavy-reads", self._most, "concurrent-requests")
            reason = f"another export of yours is running, and at most {self._most} may at the same time"
            exceeded = LimitExceeded(reason, "too_many_heavy_reads", policy, RETRY_AFTER_SECONDS)
            await limit_response(exceeded)(scope, receive, send)
            return
        self._active[key] += 1
        counted = True

        def release() -> None:
            nonlocal counted
            if counted:
                counted = False
                self._active[key] -= 1
                if not self._active[key]:
                    del self._active[key]

        async def send_and_release(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                release()  # before the client has the end, so that its next request is not refused
            await send(message)

        try:
            await self._app(scope, receive, send_and_release)
        finally:
            release()
