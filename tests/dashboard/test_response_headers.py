"""Headers of responses: behind TLS each cookie is for TLS only."""

import asyncio

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from filemill_dashboard.asgi.response_headers import ResponseHeaders

COOKIES = ["_streamlit_xsrf=2|abc; Path=/; SameSite=lax", "__Host-filemill=insecure; Path=/; secure; HttpOnly", "a=b"]


async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
    headers = [(b"set-cookie", cookie.encode()) for cookie in COOKIES]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("scheme", "added"), [("https", ["; Secure", "", "; Secure"]), ("http", ["", "", ""])], ids=["https", "http"]
)
def test_behind_tls_each_cookie_is_secure(scheme: str, added: list[str]) -> None:
    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(ResponseHeaders(app))
        async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://files.example") as http:
            return await http.get("/")

    found = asyncio.run(work()).headers.get_list("set-cookie")
    assert found == [cookie + more for cookie, more in zip(COOKIES, added, strict=True)]
