"""The request filter: requests of foreign pages are rejected, those of our page and of programs pass."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from filemill.config.settings import Settings, load
from filemill_dashboard.asgi.request_filter import RequestFilter

OURS = "127.0.0.1:8501"
Headers = list[tuple[bytes, bytes]]


class FilteredRequest:
    """The result of one request: the status, or the scope that the app behind the filter got."""

    def __init__(self) -> None:
        self.scope: Scope | None = None
        self.sent: list[Message] = []

    async def app(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        self.scope = scope

    @property
    def passed(self) -> bool:
        return self.scope is not None

    @property
    def status(self) -> int:
        return int(self.sent[0].get("status", 0))

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


def filtered(
    headers: dict[str, str] | Headers,
    method: str = "GET",
    *,
    kind: str = "http",
    client: str = "127.0.0.1",
    server: str = "127.0.0.1",
    scheme: str = "",
    version: str = "1.1",
    **settings: Any,
) -> FilteredRequest:
    request = FilteredRequest()
    given = headers if isinstance(headers, list) else [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    scope: Scope = {
        "type": kind,
        "http_version": version,
        "scheme": scheme or ("ws" if kind == "websocket" else "http"),
        "path": "/api/files",
        "headers": given,
        "client": (client, 40_000),
        "server": (server, 8501),
        "extensions": {"websocket.http.response": {}},
    }
    if kind == "http":
        scope["method"] = method

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        request.sent.append(message)

    asyncio.run(RequestFilter(request.app, load(**settings))(scope, receive, send))
    return request


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "localhost:8501", "[::1]:8501", "LOCALHOST:3004", "127.0.0.1"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_loopback_names_are_served(host: str, kind: str) -> None:
    assert filtered({"Host": host}, kind=kind).passed


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8501",
        "evil.example",
        "localhost.evil.example",
        "10.0.0.9:8501",
        "0.0.0.0:8501",
        "http://[",
        "\xff",
    ],
)
def test_an_unknown_host_is_rejected_and_the_setting_is_named(host: str, kind: str) -> None:
    rejected = filtered([(b"host", host.encode("latin-1"))], kind=kind)
    assert not rejected.passed
    assert rejected.status == 421
    assert "FILEMILL_ALLOWED_HOSTS" in rejected.text


def test_the_local_address_of_the_connection_is_served() -> None:
    assert filtered({"Host": "172.18.0.4:8501"}, server="172.18.0.4").passed
    assert filtered({"Host": "127.0.0.1:8501"}, server="::ffff:127.0.0.1").passed
    assert not filtered({"Host": "172.18.0.5:8501"}, server="172.18.0.4").passed


def test_configured_names_are_served() -> None:
    assert filtered({"Host": "files.example"}, public_url="https://files.example").passed
    assert filtered({"Host": "Files.Example:8501"}, allowed_hosts="other.example, files.example").passed
    assert filtered({"Host": "mybox:8501"}, host="mybox").passed
    assert not filtered({"Host": "www.files.example"}, public_url="https://files.example").passed


@pytest.mark.parametrize("headers", [[], [(b"host", b"127.0.0.1"), (b"host", b"127.0.0.1")]])
def test_a_request_needs_exactly_one_host(headers: Headers) -> None:
    assert filtered(headers).status == 400


def test_a_health_check_in_http_1_0_needs_no_host() -> None:
    assert filtered([], version="1.0").passed
    assert not filtered([(b"origin", b"http://evil.example")], version="1.0").passed


def test_programs_without_an_origin_pass() -> None:
    for method in ("GET", "POST", "DELETE"):
        assert filtered({"Host": OURS}, method).passed
    assert filtered({"Host": OURS}, kind="websocket").passed


@pytest.mark.parametrize(
    ("host", "origin", "more"),
    [
        (OURS, f"http://{OURS}", {}),
        ("localhost:3004", "http://localhost:3004", {}),
        ("[::1]:8501", "http://[::1]:8501", {}),
        ("localhost", "http://localhost:80", {}),
        # A proxy that terminates TLS and forwards the port, the scheme or neither.
        ("files.example:443", "https://files.example", {"allowed_hosts": "files.example"}),
        ("files.example:443", "https://files.example", {"public_url": "https://files.example"}),
        ("files.example", "https://files.example", {"public_url": "https://files.example"}),
        ("127.0.0.1:8501", "https://files.example:8443", {"public_url": "https://files.example:8443"}),
        ("files.example", "https://files.example", {"allowed_hosts": "files.example", "scheme": "https"}),
    ],
)
def test_our_own_page_may_change_things_and_open_websockets(host: str, origin: str, more: dict[str, str]) -> None:
    assert filtered({"Host": host, "Origin": origin, "Sec-Fetch-Site": "same-origin"}, "POST", **more).passed
    more = {**more, "scheme": "wss"} if "scheme" in more else more
    opened = filtered({"Host": host, "Origin": origin}, kind="websocket", **more)
    assert opened.scope is not None
    seen = dict(opened.scope["headers"])
    assert seen[b"origin"].partition(b"://")[2] == seen[b"host"]  # Streamlit compares them as text


@pytest.mark.parametrize(
    "origin",
    [
        "http://127.0.0.1:8502", "http://127.0.0.1", "https://127.0.0.1:8501", "http://localhost:8501",
        "http://evil.example", "http://evil.example:8501", "null", "", "http://[", "http://" + "a" * 30_000, "\xff\xfe",
        "http://127.0.0.1:8501/", "http://127.0.0.1:8501, http://evil.example", "http://user@127.0.0.1:8501",
    ],
)  # fmt: skip
def test_a_page_of_another_origin_cannot_change_anything(origin: str) -> None:
    headers = [(b"host", OURS.encode()), (b"origin", origin.encode("latin-1"))]
    for rejected in (
        filtered(headers, "POST"),
        filtered(headers, "DELETE"),
        filtered(headers, kind="websocket"),
    ):
        assert not rejected.passed
        assert rejected.status == 403
        assert "FILEMILL_PUBLIC_URL" in rejected.text
        assert len(rejected.text) < 1000


def test_two_origin_headers_are_rejected() -> None:
    ours = (b"origin", f"http://{OURS}".encode())
    assert filtered([(b"host", OURS.encode()), ours, ours], "POST").status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_request_that_the_browser_marks_as_cross_site_is_rejected(site: str) -> None:
    headers = {"Host": OURS, "Sec-Fetch-Site": site}
    for mode, dest in [("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("navigate", "object")]:
        rejected = filtered({**headers, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest})
        assert (rejected.passed, rejected.status) == (False, 403)
    followed = {**headers, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert filtered(followed).passed
    assert filtered(followed, "POST").status == 403
    assert filtered({**headers, "Sec-Fetch-Mode": "websocket"}, kind="websocket").status == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_requests_of_our_page_and_of_the_address_bar_pass(site: str) -> None:
    assert filtered({"Host": OURS, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}).passed


def test_a_browser_gets_text_and_a_program_gets_json() -> None:
    assert filtered({"Host": "evil.example", "Accept": "text/html,*/*"}).text.startswith(
        "this server is not known as 'evil"
    )
    assert '"code":"host_not_allowed"' in filtered({"Host": "evil.example"}).text


@hypothesis(deadline=None)
@given(
    host=st.binary(max_size=80),
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"x-forwarded-for", b"accept"]),
            st.binary(max_size=60),
        ),
        max_size=6,
    ),
)
def test_no_header_causes_an_exception(host: bytes, headers: Headers) -> None:
    for kind in ("http", "websocket"):
        request = filtered([(b"host", host), *headers], "POST", kind=kind, trusted_proxies="127.0.0.0/8")
        assert request.passed or request.status in {400, 403, 421}


FORWARDED = {"Host": OURS, "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}


def seen(headers: dict[str, str], client: str = "127.0.0.1", **settings: Any) -> tuple[str, str]:
    scope = filtered(headers, client=client, **settings).scope
    assert scope is not None
    return scope["client"][0], scope["scheme"]


def test_forwarding_headers_are_ignored_by_default() -> None:
    assert seen(FORWARDED) == ("127.0.0.1", "http")


def test_forwarding_headers_of_a_trusted_proxy_are_used() -> None:
    assert seen(FORWARDED, trusted_proxies="127.0.0.1") == ("203.0.113.7", "https")
    assert seen(FORWARDED, client="10.1.2.3", trusted_proxies="::1, 10.0.0.0/8") == ("203.0.113.7", "https")
    assert seen(FORWARDED, client="11.1.2.3", trusted_proxies="::1, 10.0.0.0/8") == ("11.1.2.3", "http")


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),  # a client can forge the addresses before the last one
        ("203.0.113.7, 127.0.0.1", "203.0.113.7"),
        ("evil, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, evil", "127.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("x" * 30_000, "127.0.0.1"),
        ("\x1b[31m", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_a_forwarded_value_that_is_not_an_address_is_ignored(value: str, client: str) -> None:
    assert seen({**FORWARDED, "X-Forwarded-For": value}, trusted_proxies="127.0.0.1")[0] == client


@pytest.mark.parametrize(
    "wrong",
    [
        {"public_url": "files.example"},
        {"public_url": "https://files.example/path"},
        {"public_url": "https://user:pass@files.example"},
        {"allowed_hosts": "https://files.example"},
        {"allowed_hosts": "files.example:443"},
        {"trusted_proxies": "nginx"},
        {"trusted_proxies": "10.0.0.1/8"},
        {"s3_endpoint": "http://user:pass@127.0.0.1:4566"},
        {"kafka_broker": "user:pass@127.0.0.1:9092"},
    ],
)
def test_an_invalid_setting_is_rejected(wrong: dict[str, str]) -> None:
    with pytest.raises(Exception, match=next(iter(wrong)).upper()) as rejected:
        load(**wrong)
    assert "pass@" not in str(rejected.value)


def test_settings_reach_started_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILEMILL_ALLOWED_HOSTS", "a.example,b.example")
    assert Settings().allowed_host_names == ["a.example", "b.example"]
