"""Who asks the same at the same time is answered together, and never with what was read before."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from filemill_dashboard.asgi.coalescing import MIN_INTERVAL_SECONDS, CoalescingMiddleware

Ask = Callable[..., Awaitable[bytes]]


class Counter:
    """An app that answers with the number of its readings so far; each waits for its permission."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.permitted = asyncio.Event()
        self.permitted.set()
        self.bug: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.began.append(scope["path"])
        number = len(self.began)
        await self.permitted.wait()
        if self.bug is not None:
            raise self.bug
        await PlainTextResponse(str(number))(scope, receive, send)


def asking(app: CoalescingMiddleware) -> Ask:
    async def ask(path: str = "/api/files", query: bytes = b"", method: str = "GET") -> bytes:
        said: list[Message] = []

        async def send(message: Message) -> None:
            said.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": []}
        await app(scope, receive, send)
        assert said[0]["status"] == 200
        return b"".join(message.get("body", b"") for message in said)

    return ask


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_who_comes_while_one_is_read_gets_the_next_reading_together() -> None:
    async def scene() -> None:
        counter = Counter()
        ask = asking(CoalescingMiddleware(counter))
        counter.permitted.clear()
        first = asyncio.ensure_future(ask())
        await settled()
        others = [asyncio.ensure_future(ask()) for _ in range(100)]
        await settled()
        counter.permitted.set()
        assert await first == b"1"
        assert set(await asyncio.gather(*others)) == {b"2"}
        assert len(counter.began) == 2

    asyncio.run(scene())


def test_one_who_asks_again_and_again_never_waits_and_gets_the_newest() -> None:
    async def scene() -> None:
        counter = Counter()
        ask = asking(CoalescingMiddleware(counter))
        began = asyncio.get_running_loop().time()
        assert [await ask() for _ in range(20)] == [str(number).encode() for number in range(1, 21)]
        assert asyncio.get_running_loop().time() - began < 20 * MIN_INTERVAL_SECONDS

    asyncio.run(scene())


def test_readings_of_a_crowd_keep_their_pace() -> None:
    async def scene() -> None:
        counter = Counter()
        ask = asking(CoalescingMiddleware(counter))
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def one_of_many() -> None:
            while loop.time() < began + 10 * MIN_INTERVAL_SECONDS:
                await ask()

        await asyncio.gather(*(one_of_many() for _ in range(50)))
        assert len(counter.began) <= 13

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("path", "query", "method"),
    [("/api/files", b"limit=2", "GET"), ("/api/workers", b"", "GET"), ("/api/files", b"", "POST")],
)
def test_other_questions_are_not_mixed_up(path: str, query: bytes, method: str) -> None:
    async def scene() -> None:
        counter = Counter()
        ask = asking(CoalescingMiddleware(counter))
        counter.permitted.clear()
        both = asyncio.gather(ask(), ask(path, query, method))
        await settled()
        counter.permitted.set()
        assert sorted(await both) == [b"1", b"2"]

    asyncio.run(scene())


def test_a_bug_is_told_to_each_and_the_next_reading_is_tried() -> None:
    async def scene() -> None:
        counter = Counter()
        ask = asking(CoalescingMiddleware(counter))
        counter.bug = ZeroDivisionError("bug")
        told = await asyncio.gather(ask(), ask(), return_exceptions=True)
        assert [type(one) for one in told] == [ZeroDivisionError] * 2
        counter.bug = None
        assert await ask() == b"2"

    asyncio.run(scene())


def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    async def scene() -> None:
        counter = Counter()
        ask = asking(CoalescingMiddleware(counter))
        counter.permitted.clear()
        leaving = asyncio.ensure_future(ask())
        await settled()
        staying = asyncio.ensure_future(ask())
        await settled()
        leaving.cancel()
        await settled()
        counter.permitted.set()
        assert await staying == b"2"

    asyncio.run(scene())
