"""Both S3 clients use temporary credentials, a proxy and private certificates from the settings."""

import asyncio
import os
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from filemill.adapters.s3.admin import read_object
from filemill.adapters.s3.store import S3ObjectStore
from filemill.config.settings import InvalidSettings, Settings, load
from filemill.errors import Unavailable

KEY = "file-1-1.txt"
BODY = b"whole"


class Service(ThreadingHTTPServer):
    """Returns one object, and records the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ServiceHandler)
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _ServiceHandler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(206 if "range" in self.headers else 200)
        if "range" in self.headers:
            self.send_header("Content-Range", f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
        self.send_header("Content-Length", str(len(BODY)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Sun, 04 Jan 2026 12:00:00 GMT")
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_arguments: object) -> None: ...


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def read_by_both(settings: Settings) -> None:
    assert asyncio.run(S3ObjectStore(settings).get(KEY)) == BODY
    assert read_object(settings, KEY) == BODY


def test_a_session_token_is_sent_with_every_request(service: Service) -> None:
    read_by_both(load(s3_endpoint=f"http://{service.address}", s3_session_token="temporary"))
    assert [headers["x-amz-security-token"] for _, headers in service.requests] == ["temporary"] * 2
    assert all("x-amz-security-token" in headers["authorization"] for _, headers in service.requests), (
        "the token is signed"
    )


def test_no_session_token_is_sent_without_the_setting(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "theirs")
    read_by_both(load(s3_endpoint=f"http://{service.address}"))
    assert ["x-amz-security-token" in headers for _, headers in service.requests] == [False, False]
    assert os.environ["AWS_SESSION_TOKEN"] == "theirs", "the hidden variable is restored"


def test_requests_go_through_the_proxy_of_the_settings(service: Service) -> None:
    settings = load(s3_endpoint="http://s3.invalid:4566", s3_proxy=f"http://{service.address}")
    read_by_both(settings)
    assert {path for path, _ in service.requests} == {f"http://s3.invalid:4566/{settings.s3_bucket}/{KEY}"}


def test_a_proxy_without_a_scheme_is_invalid() -> None:
    with pytest.raises(InvalidSettings, match=r"FILEMILL_S3_PROXY.*http://"):
        load(s3_proxy="proxy:3128")


def test_a_private_certificate_is_trusted_if_configured(service: Service, tmp_path: Path) -> None:
    authority, bundle = trustme.CA(), tmp_path / "bundle.pem"
    authority.cert_pem.write_to_path(bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    service.socket = context.wrap_socket(service.socket, server_side=True)
    endpoint = f"https://{service.address}"
    read_by_both(load(s3_endpoint=endpoint, s3_ca_bundle=bundle))
    untrusting = load(s3_endpoint=endpoint)
    with pytest.raises(Unavailable, match=endpoint):
        read_object(untrusting, KEY)
    with pytest.raises(Unavailable, match=endpoint):
        asyncio.run(S3ObjectStore(untrusting).get(KEY))


def test_a_missing_certificate_bundle_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"FILEMILL_S3_CA_BUNDLE.*there is no file"):
        load(s3_ca_bundle=tmp_path / "none.pem")
