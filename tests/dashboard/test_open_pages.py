"""The limit of open pages: WebSockets above it are refused with a reason, until one of the person's own ends."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from filemill.config.settings import load
from filemill.domain.permissions import Principal, RequestSource, Role
from filemill_dashboard.asgi.open_pages import OpenPagesLimit
from filemill_dashboard.state.identity import PRINCIPAL
from filemill_dashboard.state.open_pages import OpenPages

HTML = "text/html,*/*"


def person(name: str, address: str = "192.0.2.1", how: str = "session:1") -> Principal:
    return Principal(name, Role.VIEWER, source=RequestSource(address=address, authentication=how))


ANN, BOB = person("ann"), person("bob")


async def pages_app(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket stays open until the client ends it, or fails; a request gets its path."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})
        return
    await send({"type": "websocket.accept"})
    if (await receive())["type"] == "fail":
        raise RuntimeError("a bug")


class Client:
    """One request or WebSocket of somebody, and what was sent to it."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        self.sent: list[Message] = []
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._task = asyncio.ensure_future(app(scope, self._inbox.get, self._send))
        self._answered = asyncio.Event()

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"].endswith(("accept", "body", "close")):
            self._answered.set()

    async def answer(self) -> "Client":
        async with asyncio.timeout(5):
            await self._answered.wait()
        return self

    async def end(self, kind: str = "websocket.disconnect") -> BaseException | None:
        await self._inbox.put({"type": kind, "code": 1001})
        async with asyncio.timeout(5):
            (result,) = await asyncio.gather(self._task, return_exceptions=True)
        return result

    @property
    def accepted(self) -> bool:
        return bool(self.sent[0]["type"] == "websocket.accept")

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


class Site:
    """The middleware with a limit of two."""

    def __init__(self, most: int = 2) -> None:
        self.pages = OpenPages(most)
        self._app = OpenPagesLimit(pages_app, self.pages)

    async def open(self, who: Principal = ANN, *, responds: bool = True) -> Client:
        extensions: dict[str, Any] = {"websocket.http.response": {}} if responds else {}
        scope = {"type": "websocket", "path": "/stream", "headers": [], "extensions": extensions, PRINCIPAL: who}
        return await Client(self._app, scope).answer()

    async def get(self, path: str, accept: str = "*/*") -> Client:
        headers = [(b"accept", accept.encode())]
        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": headers, PRINCIPAL: ANN}
        return await Client(self._app, scope).answer()


def test_a_person_opens_as_many_pages_as_allowed_and_another_one_after_one_is_closed() -> None:
    async def work() -> None:
        site = Site()
        first, second, third = [await site.open() for _ in range(3)]
        assert (first.accepted, second.accepted, third.accepted) == (True, True, False)
        assert third.sent[0]["status"] == 429
        assert third.headers["retry-after"] == "5"
        assert third.headers["ratelimit-policy"] == '"open-pages";q=2;qu="concurrent-requests"'
        error = json.loads(third.body)["error"]
        assert error["code"] == "too_many_open_pages"
        assert "2 of your pages are open" in error["message"]
        other = await site.open(BOB)  # at the same address
        assert other.accepted
        await first.end()
        again = await site.open()
        assert again.accepted
        for client in (second, again, other):
            await client.end()
        assert (site.pages.count("name ann"), site.pages.count("name bob")) == (0, 0)

    asyncio.run(work())


def test_a_server_that_cannot_respond_to_a_handshake_closes_it() -> None:
    async def work() -> None:
        site = Site(1)
        first = await site.open()
        refused = await site.open(responds=False)
        assert refused.sent == [{"type": "websocket.close", "code": 1008}]
        await first.end()

    asyncio.run(work())


def test_where_a_page_would_be_the_browser_is_told_why_and_tries_again() -> None:
    async def work() -> None:
        site = Site()
        clients = [await site.open() for _ in range(2)]
        refused = await site.get("/pipeline", HTML)
        assert (refused.sent[0]["status"], refused.headers["retry-after"]) == (429, "5")
        assert refused.headers["content-type"].startswith("text/html")
        assert "2 of your pages are open, and at most 2 may be at the same time" in refused.body
        assert '<meta http-equiv="refresh" content="5">' in refused.body
        assert (await site.get("/static/x.js")).body == "page"
        await clients[0].end()
        assert (await site.get("/pipeline", HTML)).body == "page"
        await clients[1].end()

    asyncio.run(work())


def test_a_page_that_fails_is_not_counted_any_more() -> None:
    async def work() -> None:
        site = Site()
        for _ in range(5):
            client = await site.open()
            assert client.accepted
            assert isinstance(await client.end("fail"), RuntimeError)
        assert site.pages.count("name ann") == 0

    asyncio.run(work())


def test_where_all_have_one_credential_each_address_has_the_limit() -> None:
    async def work() -> None:
        site = Site(1)
        first, second = (person("token", address, "launch token") for address in ("192.0.2.1", "192.0.2.2"))
        opened = [await site.open(who) for who in (first, second)]
        refused = await site.open(first)
        assert [client.accepted for client in (*opened, refused)] == [True, True, False]
        for client in opened:
            await client.end()

    asyncio.run(work())


def test_without_a_limit_any_number_is_open() -> None:
    async def work() -> None:
        site = Site(0)
        clients = [await site.open() for _ in range(20)]
        assert all(client.accepted for client in clients)
        assert (await site.get("/", HTML)).body == "page"
        for client in clients:
            await client.end()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("given", "most"),
    [
        ({}, 0),
        ({"auth": "token"}, 100),
        ({"auth": "accounts", "limit_open_pages": 3}, 3),
        ({"auth": "token", "limit_open_pages": 0}, 0),
        ({"limit_open_pages": 3}, 3),
    ],
    ids=str,
)
def test_the_limit_is_a_setting_and_off_without_sign_in(given: dict[str, Any], most: int) -> None:
    assert load(**given).open_pages == most
