"""A crowd of programs that polls the same: its question goes to the database once for all of them.

Nobody gets an answer that is older than the request: whoever comes while one is read waits for the next one. Beyond two
who ask at once there is a pause between readings, so that a thousand cost the database what two do.
"""

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What programs poll; the answer depends on path and query alone.
COALESCED_PATHS = {"/api/files", "/api/pipeline", "/api/workers", "/api/dead-letters"}
# From the begin of a reading that was shared to that of the next: the longest that a crowd waits beside the reading.
MIN_INTERVAL_SECONDS = 0.04

Answer = list[Message]
Question = tuple[str, bytes]


@dataclass
class _Line:
    """Who waits for the next reading."""

    waiting: list[asyncio.Future[Answer]] = field(default_factory=list)


class CoalescingMiddleware:
    """Middleware: one reading for all who ask the same at the same time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._lines: dict[Question, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] not in COALESCED_PATHS:
            await self._app(scope, receive, send)
            return
        for message in await self._next(scope):
            await send(message)

    def _next(self, scope: Scope) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        question = (scope["path"], scope.get("query_string", b""))
        line = self._lines.get(question)
        if line is None:
            line = self._lines[question] = _Line()
            task = loop.create_task(self._serve(question, line, scope))
            self._tasks.add(task)  # the loop itself would let go of it
            task.add_done_callback(self._tasks.discard)
        line.waiting.append(loop.create_future())
        return line.waiting[-1]

    async def _serve(self, question: Question, line: _Line, scope: MutableMapping[str, Any]) -> None:
        """Read as long as anybody waits. The readers' own connections may go: this one goes on for the others."""
        loop = asyncio.get_running_loop()
        try:
            while line.waiting:
                asking, line.waiting = line.waiting, []
                began = loop.time()
                await self._read(dict(scope), asking)
                if len(asking) > 1:
                    await asyncio.sleep(began + MIN_INTERVAL_SECONDS - loop.time())
        finally:
            del self._lines[question]
            for one in line.waiting:
                one.cancel()

    async def _read(self, scope: Scope, asking: list[asyncio.Future[Answer]]) -> None:
        answer: Answer = []

        async def keep(message: Message) -> None:
            answer.append(message)

        reading = asyncio.ensure_future(self._app(scope, _nothing_more, keep))
        await asyncio.wait([reading])
        bug = reading.exception()
        for one in asking:
            if one.done():
                continue  # gone meanwhile
            if bug is None:
                one.set_result(answer)
            else:
                one.set_exception(bug)


async def _nothing_more() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
