"""REST: error responses have one shape, name the wrong field, and contain no trace."""

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File
from filemill.config.settings import Settings
from filemill.services.submissions import Submissions
from filemill_dashboard.rest.scripts import PLOTLY_PATH
from tests.integration.rest import Rest, serving

MEBIBYTE = 1024 * 1024


def post(rest: Rest, content: bytes | str, **headers: str | bytes) -> httpx.Response:
    body = content.encode() if isinstance(content, str) else content
    sent = {name.encode(): value.encode() if isinstance(value, str) else value for name, value in headers.items()}
    return rest.client.post("/api/files", content=body, headers={b"content-type": b"application/json", **sent})


def check_error(answer: httpx.Response, status: int, code: str, field: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "field"}
    assert (body["error"]["code"], body["error"]["field"]) == (code, field)
    assert "Traceback" not in answer.text
    message: str = body["error"]["message"]
    return message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": " \u00a0\u3000"}, "title"),
        ({"title": "x" * 256}, "title"),
        ({"title": "😀" * 256}, "title"),
        ({"title": "a\nb"}, "title"),
        ({"title": "a\u0085b"}, "title"),
        ({"title": "a\0b"}, "title"),
        ({"title": "\ud800"}, "title"),
        ({"title": 7}, "title"),
        ({"title": None}, "title"),
        ({"title": ["a"]}, "title"),
        ({}, "title"),
        ([], "title"),
        ("title", "title"),
        ({"title": "a", "description": "x" * (64 * 1024 + 1)}, "description"),
        ({"title": "a", "description": "é" * (32 * 1024 + 1)}, "description"),
        ({"title": "a", "description": "a\0b"}, "description"),
        ({"title": "a", "description": "\udfff"}, "description"),
        ({"title": "a", "description": 7}, "description"),
    ],
)
def test_an_invalid_field_is_named(body: Any, field: str, rest: Rest, engine: sa.Engine) -> None:
    check_error(post(rest, json.dumps(body)), 422, "invalid", field)
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(File)).scalar_one() == 0
    assert rest.relay.woken == 0


@pytest.mark.parametrize("body", ["", "{", '{"title": "a"', "nonsense", '{"title": "a"} x', "[" * 200_000])
def test_a_body_that_is_not_json_is_400(body: str, rest: Rest) -> None:
    check_error(post(rest, body), 400, "bad_json")


@pytest.mark.parametrize(
    "body", [b'{"title": "\xff"}', b'{"title": "\xed\xa0\x80"}', '{"title": "a"}'.encode("utf-16")]
)
def test_a_body_that_is_not_utf_8_is_400(body: bytes, rest: Rest) -> None:
    check_error(post(rest, body), 400, "bad_encoding")


@pytest.mark.parametrize("size", [MEBIBYTE + 1, 3 * MEBIBYTE])
def test_a_body_that_is_too_large_is_413(size: int, rest: Rest) -> None:
    check_error(post(rest, b" " * size), 413, "too_large")

    def chunks() -> Iterator[bytes]:
        for _ in range(size // 1024 + 1):
            yield b" " * 1024

    answer = rest.client.post("/api/files", content=chunks(), headers={"content-type": "application/json"})
    check_error(answer, 413, "too_large")


def test_a_body_of_the_maximum_size_is_accepted(rest: Rest) -> None:
    start = b'{"title": "a"}'
    assert post(rest, start + b" " * (MEBIBYTE - len(start))).status_code == 201


def test_a_page_of_another_site_cannot_post(rest: Rest) -> None:
    check_error(post(rest, '{"title": "a"}', origin="https://evil.example"), 403, "cross_origin")
    check_error(post(rest, '{"title": "a"}', origin="null"), 403, "cross_origin")
    assert post(rest, '{"title": "a"}', origin=str(rest.client.base_url).rstrip("/")).status_code == 201


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_content_type_that_a_form_can_send_is_415(kind: str, rest: Rest) -> None:
    for path in ("/api/files", "/api/files/cancel", "/api/dead-letters/replay", "/api/offsets/reset"):
        headers = {"content-type": kind} if kind else {}
        answer = rest.client.post(path, content=b'{"title": "a", "all": true}', headers=headers)
        check_error(answer, 415, "unsupported_media_type")
    assert post(rest, '{"title": "a"}', **{"content-type": "Application/JSON; charset=utf-8"}).status_code == 201


def test_a_rebound_dns_name_can_neither_read_nor_write(rest: Rest) -> None:
    evil = {"host": f"evil.example:{rest.client.base_url.port}"}
    check_error(rest.client.get("/api/files", headers=evil), 421, "host_not_allowed")
    check_error(post(rest, '{"title": "a"}', **evil), 421, "host_not_allowed")
    assert rest.client.get("/api/files").json()["items"] == []


@pytest.mark.parametrize("origin", ["http://[", "http://127.0.0.1:1", "\u00ff", "http://" + "a" * 30_000])
def test_no_origin_causes_an_exception(origin: str, rest: Rest) -> None:
    check_error(post(rest, '{"title": "a"}', origin=origin.encode("latin-1")), 403, "cross_origin")


@pytest.mark.parametrize("path", ["/api/files", "/api/nope", "/healthz", PLOTLY_PATH])
def test_every_response_has_security_headers(path: str, rest: Rest) -> None:
    answer = rest.client.get(path)
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert "camera=()" in answer.headers["permissions-policy"]
    kept = path == PLOTLY_PATH
    assert answer.headers["cache-control"] == ("public, max-age=31536000, immutable" if kept else "no-store")


def test_no_response_allows_cross_origin_reads(rest: Rest) -> None:
    answer = rest.client.get("/api/files", headers={"origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/api/nope", "/api/files/1/nope", "/api/docs", "/api//files"])
def test_an_unknown_path_is_404_as_json(path: str, rest: Rest) -> None:
    assert check_error(rest.client.get(path), 404, "not_found") == f"there is nothing at {path}"


def test_the_root_of_the_api_names_the_openapi_document(rest: Rest) -> None:
    for path in ("/api", "/api/"):
        assert rest.client.get(path).json()["openapi"] == "/api/openapi.json"


def test_the_chart_script_is_cached_forever_under_its_version(rest: Rest) -> None:
    packed = rest.client.get(PLOTLY_PATH)
    assert packed.headers["content-encoding"] == "gzip"
    assert "immutable" in packed.headers["cache-control"]
    plain = rest.client.get(PLOTLY_PATH, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == packed.content
    assert b"plotly.js v" in plain.content[:200]
    check_error(rest.client.get("/assets/plotly-0.js"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/files", "GET, POST"),
        ("GET", "/api/files/retry", "POST"),
        ("DELETE", "/api/files/export", "GET"),
        ("PUT", "/api/files/1", "DELETE, GET"),
        ("GET", "/api/files/1/retry", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405_with_all_allowed_methods(method: str, path: str, allow: str, rest: Rest) -> None:
    answer = rest.client.request(method, path)
    check_error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allow


def test_an_exception_is_500_without_its_trace(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: object, **_given: object) -> None:
        raise ZeroDivisionError("secret detail")

    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(Submissions, "submit_batch", broken)
    answer = post(rest, '{"title": "a"}')
    check_error(answer, 500, "internal")
    assert "secret" not in answer.text
    assert rest.client.get("/healthz").status_code == 200


def test_the_openapi_document_has_all_paths_and_schemas(rest: Rest) -> None:
    document = rest.client.get("/api/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert set(document["paths"]) == {
        "/api/files", "/api/files/{id}", "/api/files/{id}/download", "/api/files/{id}/retry",
        "/api/files/{id}/cancel", "/api/files/retry", "/api/files/cancel", "/api/files/delete", "/api/files/export",
        "/api/dead-letters", "/api/dead-letters/replay", "/api/workers", "/api/workers/{id}", "/api/workers/{id}/quiet",
        "/api/workers/{id}/resume", "/api/pipeline", "/api/offsets/reset", "/api/audit",
        "/api/handlers", "/api/handlers/{name}", "/api/notebook", "/api/audit/export", "/api/me", "/healthz", "/readyz",
    }  # fmt: skip
    schemas = document["components"]["schemas"]
    assert {"FileRow", "FileList", "ErrorBody"} <= set(schemas)
    assert "s3_location" in schemas["FileRow"]["properties"]
    references = json.dumps(document).split('"$ref": "#/components/schemas/')[1:]
    assert {reference.split('"')[0] for reference in references} <= set(schemas)


def test_a_request_answered_503_is_not_accepted_later(settings: Settings, engine: sa.Engine) -> None:
    with serving(settings.model_copy(update={"server_timeout_seconds": 1.0})) as rest:
        with engine.begin() as connection:
            connection.execute(sa.text("LOCK TABLE files IN ACCESS EXCLUSIVE MODE"))
            started = time.monotonic()
            answer = post(rest, '{"title": "too late"}')
            check_error(answer, 503, "unavailable")
            assert 0.9 < time.monotonic() - started < 3
            assert int(answer.headers["retry-after"]) > 0
        deadline = time.monotonic() + 10
        while rest.client.post("/api/files", json={"title": "in time"}).status_code != 201:
            assert time.monotonic() < deadline
        titles = [row["title"] for row in rest.client.get("/api/files").json()["items"]]
        assert titles == ["in time"]
        assert rest.relay.woken == 1
