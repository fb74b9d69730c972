"""Request coalescing (single flight): identical GET requests that are waiting at the same time share one response.

Requests that arrive during a read share the next one, so no response predates its request. If a response was shared,
the next read of the same path and query begins at least `MIN_INTERVAL_SECONDS` after it: a thousand clients that poll
cost the database as much as two.
"""

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from filemill.domain.file_actions import only_owner
from filemill.domain.permissions import ANONYMOUS
from filemill_dashboard.state.identity import PRINCIPAL

# What programs poll. The response depends on path and query alone, and on whose files the principal may read.
COALESCED_PATHS = {"/api/files", "/api/pipeline", "/api/workers", "/api/dead-letters"}
MIN_INTERVAL_SECONDS = 0.04

Messages = list[Message]
Key = tuple[str, bytes, str | None]


@dataclass
class _Waiters:
    """The requests of one key that wait for the next read."""

    futures: list[asyncio.Future[Messages]] = field(default_factory=list)


class CoalescingMiddleware:
    """Middleware: one call of the app for all identical requests that wait at the same time."""

    def __init__(self, app: ASGIApp, *, own_files_only: bool = False) -> None:
        self._app = app
        self._own_files_only = own_files_only
        self._waiters: dict[Key, _Waiters] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] not in COALESCED_PATHS:
            await self._app(scope, receive, send)
            return
        for message in await self._join(scope):
            await send(message)

    def _join(self, scope: Scope) -> asyncio.Future[Messages]:
        loop = asyncio.get_running_loop()
        owner = only_owner(scope.get(PRINCIPAL, ANONYMOUS), own_files_only=self._own_files_only)
        key = (scope["path"], scope.get("query_string", b""), owner)
        waiters = self._waiters.get(key)
        if waiters is None:
            waiters = self._waiters[key] = _Waiters()
            task = loop.create_task(self._serve(key, waiters, scope))
            self._tasks.add(task)  # the loop itself keeps only a weak reference
            task.add_done_callback(self._tasks.discard)
        waiters.futures.append(loop.create_future())
        return waiters.futures[-1]

    async def _serve(self, key: Key, waiters: _Waiters, scope: MutableMapping[str, Any]) -> None:
        """Call the app until no request waits. A client that disconnects does not cancel the call for the others."""
        loop = asyncio.get_running_loop()
        try:
            while waiters.futures:
                served, waiters.futures = waiters.futures, []
                started = loop.time()
                await self._call(dict(scope), served)
                if len(served) > 1:
                    await asyncio.sleep(started + MIN_INTERVAL_SECONDS - loop.time())
        finally:
            del self._waiters[key]
            for future in waiters.futures:
                future.cancel()

    async def _call(self, scope: Scope, served: list[asyncio.Future[Messages]]) -> None:
        messages: Messages = []

        async def collect(message: Message) -> None:
            messages.append(message)

        call = asyncio.ensure_future(self._app(scope, _receive_empty_body, collect))
        await asyncio.wait([call])
        bug = call.exception()
        for future in served:
            if future.done():
                continue  # the client has disconnected
            if bug is None:
                future.set_result(messages)
            else:
                future.set_exception(bug)


async def _receive_empty_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
