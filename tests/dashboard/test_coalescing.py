"""Identical requests at the same time share a response, and no response predates its request."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from filemill_dashboard.asgi.coalescing import MIN_INTERVAL_SECONDS, CoalescingMiddleware

Ask = Callable[..., Awaitable[bytes]]


class CountingApp:
    """An app that responds with the number of its calls so far. Calls wait until they are permitted."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.permitted = asyncio.Event()
        self.permitted.set()
        self.bug: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls.append(scope["path"])
        number = len(self.calls)
        await self.permitted.wait()
        if self.bug is not None:
            raise self.bug
        await PlainTextResponse(str(number))(scope, receive, send)


def client_of(app: CoalescingMiddleware) -> Ask:
    async def ask(path: str = "/api/files", query: bytes = b"", method: str = "GET") -> bytes:
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": []}
        await app(scope, receive, send)
        assert messages[0]["status"] == 200
        return b"".join(message.get("body", b"") for message in messages)

    return ask


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_requests_during_a_call_share_the_next_call() -> None:
    async def scenario() -> None:
        app = CountingApp()
        ask = client_of(CoalescingMiddleware(app))
        app.permitted.clear()
        first = asyncio.ensure_future(ask())
        await settled()
        others = [asyncio.ensure_future(ask()) for _ in range(100)]
        await settled()
        app.permitted.set()
        assert await first == b"1"
        assert set(await asyncio.gather(*others)) == {b"2"}
        assert len(app.calls) == 2

    asyncio.run(scenario())


def test_a_single_client_is_never_delayed_and_gets_the_newest_response() -> None:
    async def scenario() -> None:
        app = CountingApp()
        ask = client_of(CoalescingMiddleware(app))
        began = asyncio.get_running_loop().time()
        assert [await ask() for _ in range(20)] == [str(number).encode() for number in range(1, 21)]
        assert asyncio.get_running_loop().time() - began < 20 * MIN_INTERVAL_SECONDS

    asyncio.run(scenario())


def test_calls_for_many_clients_keep_the_minimum_interval() -> None:
    async def scenario() -> None:
        app = CountingApp()
        ask = client_of(CoalescingMiddleware(app))
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def poll() -> None:
            while loop.time() < began + 10 * MIN_INTERVAL_SECONDS:
                await ask()

        await asyncio.gather(*(poll() for _ in range(50)))
        assert len(app.calls) <= 13

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "query", "method"),
    [("/api/files", b"limit=2", "GET"), ("/api/workers", b"", "GET"), ("/api/files", b"", "POST")],
)
def test_different_requests_are_not_coalesced(path: str, query: bytes, method: str) -> None:
    async def scenario() -> None:
        app = CountingApp()
        ask = client_of(CoalescingMiddleware(app))
        app.permitted.clear()
        both = asyncio.gather(ask(), ask(path, query, method))
        await settled()
        app.permitted.set()
        assert sorted(await both) == [b"1", b"2"]

    asyncio.run(scenario())


def test_each_client_gets_the_exception_and_the_next_call_is_made() -> None:
    async def scenario() -> None:
        app = CountingApp()
        ask = client_of(CoalescingMiddleware(app))
        app.bug = ZeroDivisionError("bug")
        results = await asyncio.gather(ask(), ask(), return_exceptions=True)
        assert [type(one) for one in results] == [ZeroDivisionError] * 2
        app.bug = None
        assert await ask() == b"2"

    asyncio.run(scenario())


def test_a_client_that_disconnects_does_not_affect_the_others() -> None:
    async def scenario() -> None:
        app = CountingApp()
        ask = client_of(CoalescingMiddleware(app))
        app.permitted.clear()
        leaving = asyncio.ensure_future(ask())
        await settled()
        staying = asyncio.ensure_future(ask())
        await settled()
        leaving.cancel()
        await settled()
        app.permitted.set()
        assert await staying == b"2"

    asyncio.run(scenario())
