"""The rules of S3's errors: each one as a response to both clients, and the errors of a real service."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.exceptions import ClientError
from obstore.exceptions import BaseError
from pydantic import SecretStr

from filemill.adapters.errors import ErrorCategory
from filemill.adapters.s3.admin import bucket_exists, create_bucket, list_objects, read_object
from filemill.adapters.s3.errors import RULES, UNREACHABLE, S3ErrorCode, S3ErrorRule, classify
from filemill.adapters.s3.store import S3ObjectStore
from filemill.config.settings import Settings, load
from filemill.errors import AlreadyExists, NotFound, Unavailable

KEY = "file-1-1.txt"


class FailingService(ThreadingHTTPServer):
    """Answers every request with one status and one code."""

    status = 200
    code = ""
    ahead = timedelta()

    @property
    def settings(self) -> Settings:
        return load(s3_endpoint=f"http://127.0.0.1:{self.server_address[1]}", server_timeout_seconds=4.0)

    def fail_with(self, status: int, code: str = "", ahead: timedelta = timedelta()) -> None:
        self.status, self.code, self.ahead = status, code, ahead


class _FailingHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FailingService

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        xml = f"<?xml version='1.0'?><Error><Code>{self.server.code}</Code><Message>planted</Message></Error>"
        body = xml.encode() if self.server.code and self.command != "HEAD" else b""
        self.send_response_only(self.server.status)
        self.send_header("Date", format_datetime(datetime.now(UTC) + self.server.ahead, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_arguments: object) -> None: ...


@pytest.fixture(scope="module")
def service() -> Iterator[FailingService]:
    with FailingService(("127.0.0.1", 0), _FailingHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def raised_by(act: Callable[[], object]) -> BaseException:
    """The exception that a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the caller checks its type
        act()
    return caught.value


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.s3_code)
def test_both_clients_raise_according_to_the_rule(rule: S3ErrorRule, service: FailingService) -> None:
    service.fail_with(rule.status, "" if rule.s3_code.isdigit() else rule.s3_code)
    settings = service.settings
    store = S3ObjectStore(settings)
    by_boto = raised_by(lambda: read_object(settings, KEY))
    by_obstore = raised_by(lambda: asyncio.run(store.get(KEY)))
    by_put = raised_by(lambda: asyncio.run(store.put(KEY, b"x", {})))
    by_create = raised_by(lambda: asyncio.run(store.put(KEY, b"x", {}, "create")))
    if rule.s3_code in ("PreconditionFailed", "412"):
        assert isinstance(by_create, AlreadyExists)
    else:
        assert type(by_create) is type(by_put)
        assert str(by_create).partition(" in ")[0] == str(by_put).partition(" in ")[0]
    if rule.category is ErrorCategory.BUG:
        assert isinstance(by_obstore, BaseError)
        assert isinstance(by_put, BaseError)
        assert isinstance(by_boto, ClientError | NotFound), "a rejected key counts as not found"
    elif rule.category is ErrorCategory.NOT_FOUND:
        assert (type(by_boto), type(by_obstore)) == (NotFound, NotFound)
        assert isinstance(by_put, Unavailable)
        assert "has no bucket file-creation-bucket" in str(by_put)
    else:
        problem = rule.problem if rule.s3_code != "NoSuchBucket" else "has no bucket file-creation-bucket"
        assert f"S3 at {settings.s3_endpoint} {problem}" in str(by_boto)
        assert rule.advice in str(by_boto)
        assert isinstance(by_boto, Unavailable)
        assert by_boto.code == rule.code
        redirect = 300 <= rule.status < 400  # obstore does not expose the code of a redirect
        for error in (by_obstore, by_put):
            assert ("redirects to another address" if redirect else problem) in str(error)
            assert isinstance(error, Unavailable)
            assert error.code == (S3ErrorCode.REDIRECT if redirect else rule.code)
            assert "test" not in str(error).replace("latest", ""), "a key in an error"
    for error in (by_boto, by_obstore, by_put):
        assert (
            isinstance(error, Unavailable) == (rule.category not in (ErrorCategory.BUG, ErrorCategory.NOT_FOUND))
            or error is by_put
        )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.s3_code)
def test_each_rule_is_complete(rule: S3ErrorRule) -> None:
    assert [other.s3_code for other in RULES].count(rule.s3_code) == 1
    assert bool(rule.problem) == (rule.category not in (ErrorCategory.BUG, ErrorCategory.NOT_FOUND))
    assert bool(rule.advice) >= (rule.category is ErrorCategory.ACTION_REQUIRED)


def test_an_unknown_code_has_the_rule_of_its_status() -> None:
    assert classify("VendorSays", 503).category is ErrorCategory.TRANSIENT
    assert classify("VendorSays", 418).category is ErrorCategory.ACTION_REQUIRED
    assert classify("VendorSays", 404).category is ErrorCategory.NOT_FOUND
    assert classify("") is UNREACHABLE


def test_a_403_without_a_code_and_with_another_clock_is_clock_skew(service: FailingService) -> None:
    service.fail_with(403, ahead=timedelta(hours=6))
    with pytest.raises(Unavailable, match=r"has a clock that differs.*Set this machine's clock"):
        bucket_exists(service.settings)
    service.fail_with(403, ahead=timedelta(minutes=2))
    with pytest.raises(Unavailable, match="rejects our credentials"):
        bucket_exists(service.settings)


def test_a_list_raises_according_to_the_rule(service: FailingService) -> None:
    service.fail_with(403, "AccessDenied")
    with pytest.raises(Unavailable, match="does not grant this key"):
        list(list_objects(service.settings))
    service.fail_with(404, "NoSuchBucket")
    with pytest.raises(Unavailable, match="filemill prepare"):
        list(list_objects(service.settings))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aws_secret_access_key": SecretStr("not-the-key")}, "rejects our credentials: SignatureDoesNotMatch"),
        ({"aws_access_key_id": SecretStr("nobody")}, "does not know the access key: InvalidAccessKeyId"),
        ({"s3_bucket": "no-such-bucket-here"}, "has no bucket no-such-bucket-here"),
    ],
)
def test_both_clients_report_an_error_of_a_real_service_alike(
    changes: dict[str, object], words: str, contract_settings: Settings
) -> None:
    settings = contract_settings.model_copy(update=changes)
    store = S3ObjectStore(settings)
    acts: list[Callable[[], object]] = [
        lambda: asyncio.run(store.put(KEY, b"x", {})),
        lambda: asyncio.run(store.get(KEY)),
        lambda: list(list_objects(settings)),
        lambda: read_object(settings, KEY),
    ]
    if "s3_bucket" not in changes:
        acts.append(lambda: create_bucket(settings))
    for act in acts:
        error = raised_by(act)
        assert isinstance(error, Unavailable)
        assert words in str(error)
        assert "not-the-key" not in str(error)
