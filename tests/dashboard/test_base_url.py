"""The script that tells Streamlit's front end where its server is."""

import asyncio

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from filemill_dashboard.asgi.base_url import SCRIPT, BaseUrl

PAGE = "<!DOCTYPE html><html><head><title>T</title></head><body></body></html>"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8", "accept-encoding": "gzip"}


def _page(request: Request) -> Response:
    assert "accept-encoding" not in request.headers
    return HTMLResponse(PAGE)


def _text(_request: Request) -> Response:
    return PlainTextResponse(PAGE)


def _empty(_request: Request) -> Response:
    """What a server of files sends to a HEAD request."""
    return HTMLResponse(b"", headers={"content-length": str(len(PAGE))})


APP = BaseUrl(Starlette(routes=[Route("/pipeline", _page), Route("/text", _text), Route("/empty", _empty)]))


def ask(method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://page") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(run())


def test_the_script_comes_first_in_a_page() -> None:
    answer = ask("GET", "/pipeline", BROWSER)
    assert answer.text == PAGE.replace("<head>", f"<head><script>{SCRIPT}</script>")
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_response_without_a_body_has_no_length_of_another_page() -> None:
    answer = ask("HEAD", "/empty", BROWSER)
    assert (answer.status_code, answer.text) == (200, "")
    assert "content-length" not in answer.headers


def test_other_responses_are_unchanged() -> None:
    assert ask("GET", "/text", BROWSER).text == PAGE
    assert ask("GET", "/text", {}).text == PAGE
