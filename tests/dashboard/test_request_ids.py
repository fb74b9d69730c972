"""The id of a request: whose is used, where it is, and that nothing hostile gets into the audit log by it."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from filemill.config.settings import load
from filemill.domain.permissions import Principal, RequestSource
from filemill_dashboard.asgi.authentication import Authentication
from filemill_dashboard.asgi.proxies import TrustedProxies
from filemill_dashboard.asgi.request_filter import RequestFilter
from filemill_dashboard.asgi.request_ids import RequestIds
from filemill_dashboard.state.identity import PRINCIPAL, SOURCE_HEADER, decode_source

PROXY, CLIENT = "10.0.0.7", "192.0.2.9"
UNUSED: Any = None
GENERATED = re.compile("[0-9a-f]{24}")


async def echo(request: Request) -> Response:
    who: Principal = request.scope[PRINCIPAL]
    return JSONResponse({"source": [getattr(who.source, name) for name in RequestSource.__struct_fields__]})


def app(pages: Any = None) -> RequestIds:
    settings = load(trusted_proxies="10.0.0.0/24", allowed_hosts="files.example")
    inner = pages or Starlette(routes=[Route("/{path:path}", echo)])
    layers = RequestFilter(Authentication(inner, settings, UNUSED, UNUSED), settings)
    return RequestIds(layers, TrustedProxies(settings.trusted_proxy_networks))


def ask(
    given: Sequence[tuple[str, str | bytes]], peer: str = PROXY, base_url: str = "http://files.example"
) -> httpx.Response:
    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(app(), client=(peer, 5000))
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as http:
            headers = [(name, value if isinstance(value, bytes) else value.encode()) for name, value in given]
            return await http.get("/api/files", headers=headers)  # type: ignore[arg-type]

    return asyncio.run(work())


@pytest.mark.parametrize("given", ["req-1", "1-67891233-abcdef012345678912345678", "a/b+c=:.", "x" * 100])
def test_the_id_of_a_trusted_proxy_is_kept_with_the_clients_address(given: str) -> None:
    answer = ask([("X-Request-Id", given), ("X-Forwarded-For", CLIENT)])
    assert answer.headers.get_list("x-request-id") == [given]
    assert answer.json()["source"] == ["local", CLIENT, given]


def test_others_choose_no_id() -> None:
    answers = [ask([("X-Request-Id", "mine")], CLIENT) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(GENERATED.fullmatch(one) for one in ids)
    assert len(set(ids)) == 2
    assert [answer.json()["source"][2] for answer in answers] == ids


@pytest.mark.parametrize(
    "given", ["", " ", "x" * 101, "a b", "a\tb", "-x", "=1+1", "a;b", b"\xc3\xa9", b"\x1b[31m", "<b>", '"', "a,b"]
)
def test_an_invalid_id_is_replaced(given: str | bytes) -> None:
    answer = ask([("X-Request-Id", given)])
    assert GENERATED.fullmatch(answer.headers["x-request-id"])
    assert answer.json()["source"][2] == answer.headers["x-request-id"]


def test_a_repeated_id_is_replaced() -> None:
    assert GENERATED.fullmatch(ask([("X-Request-Id", "a"), ("X-Request-Id", "b")]).headers["x-request-id"])


def test_a_refused_request_has_an_id() -> None:
    answer = ask([], CLIENT, base_url="http://evil.example")
    assert (answer.status_code, len(answer.headers["x-request-id"])) == (421, 24)


def test_a_page_gets_the_source_of_its_websocket_and_not_a_forged_one() -> None:
    seen: list[list[str]] = []

    async def page(scope: Scope, _receive: Receive, _send: Send) -> None:
        name = SOURCE_HEADER.lower().encode()
        seen.append([value.decode() for key, value in scope["headers"] if key == name])

    async def unused() -> Message:
        raise AssertionError

    async def ignore(_message: Message) -> None:
        pass

    scope = {
        "type": "websocket",
        "path": "/_stcore/stream",
        "scheme": "ws",
        "client": (CLIENT, 5000),
        "server": ("127.0.0.1", 8501),
        "headers": [(b"host", b"127.0.0.1:8501"), (b"x-filemill-source", b'{"address":"forged"}')],
    }
    asyncio.run(app(page)(scope, unused, ignore))
    ((header,),) = seen
    source = decode_source(header)
    assert (source.authentication, source.address) == ("", CLIENT)
    assert GENERATED.fullmatch(source.request_id)
