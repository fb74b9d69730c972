"""A request that is sent again with the same key is accepted once."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.connection import in_transaction
from filemill.adapters.postgres.tables import File, IdempotencyKey, OutboxRow
from filemill.config.settings import Settings, as_environment
from filemill.domain.idempotency import key_hash
from filemill.errors import Unavailable
from filemill.services import submissions
from tests.integration.rest import Rest

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


def post(rest: Rest, title: str = "a", key: str | None = KEY) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return rest.client.post("/api/files", json={"title": title, "description": "d"}, headers=headers)


def count(engine: sa.Engine, table: type = File) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_the_same_request_with_the_same_key_gets_the_same_response(rest: Rest, engine: sa.Engine) -> None:
    first = post(rest)
    assert (first.status_code, "Idempotency-Replayed" in first.headers) == (201, False)
    with engine.begin() as connection:
        connection.execute(sa.update(File).values(status="failed", error="x"))
    second = post(rest)
    assert (second.status_code, second.headers["Idempotency-Replayed"]) == (201, "true")
    assert second.content == first.content
    assert second.headers["Location"] == first.headers["Location"]
    assert (count(engine), count(engine, OutboxRow), count(engine, IdempotencyKey)) == (1, 1, 1)
    with engine.begin() as connection:
        connection.execute(sa.delete(File))
    assert post(rest).content == first.content, "also when the file was deleted"


def test_without_a_key_and_with_another_key_each_request_is_accepted(rest: Rest, engine: sa.Engine) -> None:
    assert len({post(rest, key=key).json()["id"] for key in (None, None, "a", "b")}) == 4
    assert count(engine, IdempotencyKey) == 2


def test_a_key_in_the_quotation_marks_of_the_draft_is_the_same_key(rest: Rest) -> None:
    assert post(rest, key=f'"{KEY}"').json() == post(rest, key=KEY).json()


def test_the_same_key_with_another_request_is_refused(rest: Rest, engine: sa.Engine) -> None:
    post(rest)
    refused = post(rest, "b")
    assert refused.status_code == 409
    error = refused.json()["error"]
    assert (error["code"], error["field"]) == ("idempotency_key_reused", "Idempotency-Key")
    assert "use a new key" in error["message"]
    assert count(engine) == 1


@pytest.mark.parametrize("key", ["", '" "', "a" * 400, "a\tb", "caf\xe9"])
def test_an_invalid_key_is_refused(key: str, rest: Rest, engine: sa.Engine) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    answer = rest.client.post("/api/files", json={"title": "a"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["field"].lower()) == (422, "idempotency-key")
    assert count(engine) == 0


def test_requests_with_one_key_at_the_same_time_are_accepted_once(rest: Rest, engine: sa.Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(rest), range(24)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert (count(engine), count(engine, OutboxRow)) == (1, 1)


def test_a_key_can_be_reused_after_a_day(rest: Rest, engine: sa.Engine) -> None:
    first = post(rest).json()["id"]
    with engine.begin() as connection:
        nearly = datetime.now(UTC) - timedelta(hours=23, minutes=59)
        connection.execute(sa.update(IdempotencyKey).values(created_at=nearly))
    assert post(rest).json()["id"] == first
    with engine.begin() as connection:
        connection.execute(sa.update(IdempotencyKey).values(created_at=datetime.now(UTC) - timedelta(hours=25)))
    assert post(rest, "another").json()["id"] != first
    with engine.connect() as connection:
        assert connection.execute(sa.select(IdempotencyKey.key_hash)).scalar_one() == key_hash(KEY)


@pytest.fixture
def lose_response(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Break the connection after the next commit, before its response arrives."""
    lost = threading.Event()

    def commit_then_break(engine: sa.Engine, work: Callable[[sa.Connection], Any]) -> Any:
        answer = in_transaction(engine, work)
        if not lost.is_set():
            lost.set()
            raise Unavailable("the connection to PostgreSQL was cut")
        return answer

    def arm() -> None:
        lost.clear()
        monkeypatch.setattr(submissions, "in_transaction", commit_then_break)

    return arm


def test_a_retry_with_the_key_after_a_503_is_safe(
    rest: Rest, engine: sa.Engine, lose_response: Callable[[], None]
) -> None:
    lose_response()
    lost = post(rest)
    assert lost.status_code == 503
    assert "may have been accepted" in lost.json()["error"]["message"]
    assert "Idempotency-Key" in lost.json()["error"]["message"]
    again = post(rest)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert count(engine) == 1


def test_the_openapi_document_has_the_header_and_its_responses(rest: Rest) -> None:
    operation = rest.client.get("/api/openapi.json").json()["paths"]["/api/files"]["post"]
    (parameter,) = [one for one in operation["parameters"] if one["name"] == "Idempotency-Key"]
    assert (parameter["in"], parameter["required"]) == ("header", False)
    assert "Idempotency-Replayed" in operation["responses"]["201"]["headers"]


# --- the command


def submit(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "filemill", "submit", *arguments, "--json"],
        env=os.environ | as_environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_submits_many_files_once_with_a_key(settings: Settings, engine: sa.Engine) -> None:
    first = submit(settings, "many", "--count", "1500", "--idempotency-key", KEY)
    assert first.returncode == 0, first.stderr
    second = submit(settings, "many", "--count", "1500", "--idempotency-key", KEY)
    assert json.loads(second.stdout)["ids"] == json.loads(first.stdout)["ids"]
    assert count(engine) == 1500
    reused = submit(settings, "others", "--count", "1500", "--idempotency-key", KEY)
    assert reused.returncode == 2
    assert "used for another request" in " ".join(reused.stderr.split())
