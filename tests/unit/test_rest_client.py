"""The REST client of the commands, against small servers: every answer is a sentence, without the token."""

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import msgspec
import pytest
import trustme
from pydantic import SecretStr

from filemill.config.rest_server import RestServer, load_rest_server
from filemill.config.settings import InvalidSettings
from filemill.domain.idempotency import KeyReused
from filemill.entrypoints.cli.output import CommandFailed
from filemill.entrypoints.cli.rest_client import MissingEndpoint, RestClient
from filemill.errors import InvalidRequest, Unavailable

TOKEN = "fm_" + "s3cret" * 7
JSON = {"Content-Type": "application/json"}


class Document(msgspec.Struct):
    name: str


@dataclass
class Server:
    """A server that sends the answers in their order, the last one again and again, and keeps what it got."""

    answers: list[tuple[int, dict[str, str], bytes]]
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[ThreadingHTTPServer] = []

    def start(*answers: tuple[int, dict[str, str], bytes], tls: ssl.SSLContext | None = None) -> Server:
        server = Server(list(answers))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(dict(self.headers.items()))
                status, headers, body = server.answer()
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - the name of the base class

            def handle(self) -> None:
                with contextlib.suppress(ssl.SSLError, ConnectionError):  # the client has refused the certificate
                    super().handle()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
                pass

        listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        running.append(listening)
        if tls is not None:  # the handshake is of the thread of the connection
            listening.socket = tls.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=listening.serve_forever, args=(0.01,)).start()
        host = "http://127.0.0.1" if tls is None else "https://localhost"
        server.url = f"{host}:{listening.server_port}"
        return server

    yield start
    for listening in running:
        listening.shutdown()
        listening.server_close()


def client_of(server: Server, token: str = TOKEN) -> RestClient:
    return RestClient(RestServer(url=server.url, token=SecretStr(token)), httpx.Timeout(5))


def error(code: str, message: str, name: str | None = None) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "field": name}}).encode()


def test_a_document_is_returned_and_the_token_is_in_its_header(start: Start) -> None:
    server = start((200, JSON, b'{"name": "x", "new": 1}'))
    assert client_of(server).get("/api/me", Document) == Document("x")
    assert server.requests[0]["Authorization"] == f"Bearer {TOKEN}"
    client_of(server, "").get("/api/me", Document)
    assert "Authorization" not in server.requests[1]


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (400, error("bad_json", "the body is not JSON"), CommandFailed, "the body is not JSON"),
        (401, error("invalid_token", f"no: {TOKEN}"), CommandFailed, "does not accept the token"),
        (403, error("forbidden", "the role viewer may not"), CommandFailed, "the role viewer may not"),
        (404, error("not_found", "there is no file 7", "id"), CommandFailed, "there is no file 7"),
        (404, error("not_found", "there is nothing at /api/me"), MissingEndpoint, "older than this filemill"),
        (405, error("method_not_allowed", "POST is not allowed"), MissingEndpoint, "older than this filemill"),
        (409, error("not_possible", "it is pending", "id"), CommandFailed, "it is pending"),
        (409, error("idempotency_key_reused", "reused"), KeyReused, "another request"),
        (422, error("invalid", "title: must not be blank", "title"), InvalidRequest, "title: must not be blank"),
        (429, error("too_many", "slower"), CommandFailed, "slower. Try again later"),
        (500, error("internal", f"internal {TOKEN}"), CommandFailed, "internal …"),
        (503, error("unavailable", "no PostgreSQL"), Unavailable, "no PostgreSQL"),
        (200, b"<html>Sign in</html>", CommandFailed, "is not JSON (status 200)"),
        (200, b"", CommandFailed, "is not JSON (status 200)"),
        (200, b'{"title": 1}', CommandFailed, "of another version?"),
        (401, b"", CommandFailed, "does not accept the token"),
        (404, b"<html>", CommandFailed, "is FILEMILL_URL the address of a dashboard"),
        (502, b"bad gateway", CommandFailed, "is not JSON (status 502)"),
        (503, b"<html>", Unavailable, "is not JSON (status 503)"),
        (500, b'{"error": "no"}', CommandFailed, "is not JSON"),
    ],
)
def test_each_answer_is_a_sentence(start: Start, status: int, body: bytes, kind: type[Exception], said: str) -> None:
    client = client_of(start((status, JSON, body)))
    with pytest.raises(kind) as refused:
        client.post("/api/files", Document, {"title": "x"})
    assert said in str(refused.value)
    assert TOKEN not in str(refused.value)
    if status != 200:  # any body of 200 is a download
        with pytest.raises(kind), client.stream("/api/files/1/download"):
            pass


def test_without_a_token_the_advice_is_to_create_one(start: Start) -> None:
    with pytest.raises(CommandFailed, match=r"requires a token\. Create one on the page Account"):
        client_of(start((401, JSON, error("unauthenticated", "sign in"))), "").get("/api/me", Document)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_its_address_is_not_quoted(start: Start, status: int) -> None:
    other = start((200, JSON, b'{"name": "x"}'))
    client = client_of(start((status, {"Location": f"{other.url}/api/me?code=hidden"}, b"")))
    with pytest.raises(CommandFailed) as refused:
        client.get("/api/me", Document)
    with pytest.raises(CommandFailed), client.stream("/api/files/1/download"):
        pass
    assert f"redirects to {other.url}, which was not followed" in str(refused.value)
    assert "hidden" not in str(refused.value)
    assert other.requests == []


@pytest.mark.parametrize("headers", [{}, {"Location": ""}, {"Location": "/sign-in"}])
def test_a_redirect_without_an_address_of_a_server_is_a_sentence(start: Start, headers: dict[str, str]) -> None:
    with pytest.raises(CommandFailed, match="redirects to another path, which was not followed"):
        client_of(start((302, headers, b""))).get("/api/me", Document)


def test_a_short_retry_after_is_waited_for_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("filemill.entrypoints.cli.rest_client.time.sleep", pauses.append)
    busy = (429, {**JSON, "Retry-After": "2"}, error("too_many_writes", "more than 1 a second"))
    server = start(busy, (201, JSON, b'{"name": "x"}'))
    assert client_of(server).post("/api/files", Document, {}) == Document("x")
    assert (pauses, len(server.requests)) == ([2], 2)
    server = start(busy)
    with pytest.raises(CommandFailed, match=r"more than 1 a second\. Try again in 2 s, at "):
        client_of(server).post("/api/files", Document, {})
    assert (pauses, len(server.requests)) == ([2, 2], 2)


@pytest.mark.parametrize(
    "after", ["6", "86400", "99999999999999999999", "-1", "Wed, 21 Oct 2026 07:28:00 GMT", "٣", ""]
)
def test_another_retry_after_ends_the_command(start: Start, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filemill.entrypoints.cli.rest_client.time.sleep", lambda _seconds: pytest.fail("it waited"))
    headers = {**JSON, "Retry-After": after} if after.isascii() else JSON
    server = start((429, headers, error("too_many_bytes_today", "enough for today")))
    with pytest.raises(CommandFailed, match=r"enough for today\. Try again") as refused:
        client_of(server).get("/api/me", Document)
    assert len(server.requests) == 1
    assert ("in 86,400 s" in str(refused.value)) == (after == "86400")


def test_an_unreachable_server_and_one_that_is_cut_off_are_sentences(start: Start) -> None:
    server = start((200, {**JSON, "Content-Length": "100"}, b"half"))
    client = client_of(server)
    with pytest.raises(Unavailable, match="is unreachable"):
        client.get("/api/me", Document)
    with (
        client.stream("/api/files/1/download") as parts,
        pytest.raises(CommandFailed, match="ended the transfer before its end"),
    ):
        list(parts)
    for url in ("http://127.0.0.1:1", "https://127.0.0.1:1", f"https{server.url.removeprefix('http')}"):
        with pytest.raises(Unavailable) as unreachable:
            RestClient(RestServer(url=url, token=SecretStr(TOKEN)), httpx.Timeout(2)).get("/api/me", Document)
        assert unreachable.value.advice
        assert TOKEN not in str(unreachable.value)


def test_a_certificate_is_checked_and_another_ca_can_be_named(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    server = start((200, JSON, b'{"name": "x"}'), tls=context)
    with pytest.raises(Unavailable, match="certificate verify failed") as refused:
        client_of(server).get("/api/me", Document)
    assert "SSL_CERT_FILE" in refused.value.advice
    assert server.requests == []
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert client_of(server).get("/api/me", Document) == Document("x")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "no.pem"))
    with pytest.raises(CommandFailed, match="SSL_CERT_FILE"):
        client_of(server)


def test_a_proxy_of_the_environment_is_not_for_this_machine(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = start((200, JSON, b'{"name": "proxy"}')), start((200, JSON, b'{"name": "x"}'))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    assert client_of(server).get("/api/me", Document) == Document("x")
    remote = RestClient(RestServer(url="http://files.invalid"), httpx.Timeout(5))
    assert remote.get("/api/me", Document) == Document("proxy")
    monkeypatch.setenv("ALL_PROXY", "ftp://user:hidden@127.0.0.1")
    with pytest.raises(CommandFailed, match="HTTPS_PROXY") as refused:
        RestClient(RestServer(url="https://files.invalid"))
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"URL": "http://files.example", "TOKEN": TOKEN}, "must begin with https://"),
        ({"URL": "http://127.0.0.1.files.example", "TOKEN": TOKEN}, "must begin with https://"),
        ({"URL": f"https://{TOKEN}@files.example"}, "must not contain a user name, a password or a token"),
        ({"URL": f"https://ann:{TOKEN}@files.example"}, "must not contain a user name, a password or a token"),
        ({"URL": f"https://files.example/?token={TOKEN}"}, "without a query"),
        ({"URL": f"https://files.example/#{TOKEN}"}, "without a query"),
        ({"URL": "files.example"}, "an address such as https://filemill.example"),
        ({"URL": "ftp://files.example"}, "an address such as https://filemill.example"),
        ({"URL": "https://"}, "an address such as https://filemill.example"),
        ({"URL": "https://files.example:99999"}, "an address such as https://filemill.example"),
        ({"URL": "https://files.example", "TOKEN": f"{TOKEN}\n"}, "without blanks"),
        ({"URL": "https://files.example", "TOKEN": f"{TOKEN}é"}, "without blanks"),
        ({"URL": "https://files.example", "TOKEN_FILE": "/nonexistent"}, "FILEMILL_TOKEN_FILE: the secret's file"),
    ],
    ids=str,
)
def test_addresses_and_tokens_that_would_leak_are_refused(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"FILEMILL_{name}", value)
    with pytest.raises(InvalidSettings) as refused:
        load_rest_server()
    assert said in str(refused.value)
    assert TOKEN not in str(refused.value)


def test_the_token_is_read_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_rest_server() is None
    (tmp_path / "token").write_text(f" {TOKEN}\n")
    monkeypatch.setenv("FILEMILL_TOKEN_FILE", str(tmp_path / "token"))
    assert load_rest_server() is None  # no address
    for url in ("https://files.example/mill/", "http://localhost:8501", "http://[::1]:8501", "HTTP://127.0.0.9"):
        monkeypatch.setenv("FILEMILL_URL", url)
        found = load_rest_server()
        assert found is not None
        assert (found.url, found.secret) == (url.rstrip("/"), TOKEN)
        assert TOKEN not in repr(found)
    monkeypatch.setenv("FILEMILL_TOKEN", "fm_other")
    found = load_rest_server()
    assert found is not None
    assert found.secret == "fm_other"
    monkeypatch.delenv("FILEMILL_TOKEN")
    monkeypatch.delenv("FILEMILL_TOKEN_FILE")
    monkeypatch.setenv("FILEMILL_URL", "http://files.example")
    found = load_rest_server()
    assert found is not None  # without a token there is nothing to protect
    assert found.secret == ""


def test_a_path_that_a_reverse_proxy_adds_is_kept(start: Start) -> None:
    server = start((200, JSON, b'{"name": "x"}'))
    client = RestClient(RestServer(url=f"{server.url}/mill"), httpx.Timeout(5))
    assert str(client._http.build_request("GET", "/api/me").url) == f"{server.url}/mill/api/me"
