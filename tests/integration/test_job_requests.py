"""Requests for handlers over REST, the use case and the command line: what is accepted, and what a refusal names."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, OutboxRow
from filemill.config.settings import as_environment
from filemill.domain.handlers import PARAMETERS_MAX_BYTES, HandlerSpec
from filemill.queries.handlers import live_handlers
from tests.integration.announcements import INVOICE, announce, stop
from tests.integration.group_samples import insert_samples
from tests.integration.rest import Rest

LINE = {"text": "Work", "price": 12.5}
PARAMETERS: dict[str, Any] = {"number": "AB-7", "lines": [LINE]}


def post(rest: Rest, headers: dict[str, str] | None = None, **fields: object) -> httpx.Response:
    return rest.client.post("/api/files", json={"title": "An invoice", **fields}, headers=headers)


def error_of(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["error"]["field"]


def test_a_job_is_accepted_with_its_parameters_and_queue(rest: Rest) -> None:
    announce(rest.services.engine, INVOICE)
    answer = post(rest, handler="invoice", parameters=PARAMETERS)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["handler"], body["queue"], body["status"]) == ("invoice", "jobs", "pending")
    detail = rest.client.get(f"/api/files/{body['id']}").json()
    assert detail["parameters"] == PARAMETERS
    assert {**body, "parameters": PARAMETERS, "inputs": None, "updated_at": detail["updated_at"]} == detail
    with rest.services.connect() as connection:
        assert connection.execute(sa.select(OutboxRow.queue)).scalars().all() == ["jobs"]
    assert post(rest, handler="invoice", parameters=PARAMETERS, queue="urgent").json()["queue"] == "urgent"
    assert post(rest, queue="bulk").json()["queue"] == "bulk"
    assert post(rest, inputs={"logo": "file-1-2.txt"}).json()["queue"] == "jobs"


def test_the_list_is_filtered_by_queue_and_handler(rest: Rest) -> None:
    announce(rest.services.engine, INVOICE)
    job, bulk = post(rest, handler="invoice", parameters=PARAMETERS).json(), post(rest, queue="bulk").json()

    def found(**params: str) -> list[int]:
        return [row["id"] for row in rest.client.get("/api/files", params=params).json()["items"]]

    assert found(handler="invoice") == found(queue="jobs") == [job["id"]]
    assert found(queue="bulk") == found(handler="text") == [bulk["id"]]
    assert found(queue="jobs", handler="text") == []
    exported = rest.client.get("/api/files/export", params={"format": "ndjson", "handler": "invoice"}).text
    assert [json.loads(line)["id"] for line in exported.splitlines()] == [job["id"]]


def test_a_request_without_the_new_fields_stays_what_it_was(rest: Rest) -> None:
    body = post(rest).json()
    assert (body["handler"], body["queue"]) == ("text", "default")
    nothing = post(rest, handler=None, parameters=None, queue=None, inputs=None).json()
    assert (nothing["handler"], nothing["queue"]) == ("text", "default")
    with rest.services.connect() as connection:
        rows = connection.execute(sa.select(File.handler, File.parameters, File.inputs, File.queue)).all()
    assert rows == [("text", None, None, "default")] * 2


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"lines": [LINE]}, "$.parameters.number"),
        ({**PARAMETERS, "number": 7}, "$.parameters.number"),
        ({**PARAMETERS, "number": "no"}, "$.parameters.number"),
        ({**PARAMETERS, "due": "tomorrow"}, "$.parameters.due"),
        ({**PARAMETERS, "currency": "XXX"}, "$.parameters.currency"),
        ({**PARAMETERS, "lines": []}, "$.parameters.lines"),
        ({**PARAMETERS, "lines": [LINE, {"text": "Work"}]}, "$.parameters.lines[1].price"),
        ({**PARAMETERS, "lines": [{**LINE, "price": -1}]}, "$.parameters.lines[0].price"),
        ({**PARAMETERS, "to whom": "me"}, '$.parameters["to whom"]'),
        (None, "$.parameters.number"),
        ([], "parameters"),
        ({**PARAMETERS, "number": "AB-1\0"}, "parameters"),
        ({**PARAMETERS, "number": "x" * PARAMETERS_MAX_BYTES}, "parameters"),
    ],
)
def test_a_wrong_parameter_is_named_by_its_json_path(rest: Rest, parameters: object, path: str) -> None:
    announce(rest.services.engine, INVOICE)
    assert error_of(post(rest, handler="invoice", parameters=parameters)) == (422, path)
    with rest.services.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(File)).scalar() == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"handler": "unknown"}, "handler"),
        ({"handler": 5}, "handler"),
        ({"handler": ""}, "handler"),
        ({"queue": "nowhere"}, "queue"),
        ({"queue": "default", "inputs": {"a": "b"}}, "queue"),
        ({"handler": "invoice", "parameters": PARAMETERS, "queue": "default"}, "queue"),
        ({"parameters": {"a": 1}}, "$.parameters.a"),
        ({"inputs": {"a/b": "k"}}, "inputs"),
        ({"inputs": []}, "inputs"),
    ],
)
def test_a_request_that_no_worker_can_do_is_refused(rest: Rest, fields: dict[str, object], field: str) -> None:
    announce(rest.services.engine, INVOICE)
    answer = rest.client.post("/api/files", json={"title": "An invoice", **fields})
    assert error_of(answer) == (422, field)


def test_an_unknown_handler_is_refused_with_the_list_of_those_that_exist(rest: Rest) -> None:
    announce(rest.services.engine, INVOICE)
    assert "there are: invoice, text" in post(rest, handler="letter").json()["error"]["message"]
    stop(rest.services.engine)
    assert error_of(post(rest, handler="invoice", parameters=PARAMETERS)) == (422, "handler")
    announce(rest.services.engine, INVOICE, worker="worker-2", seconds_ago=30)
    assert error_of(post(rest, handler="invoice", parameters=PARAMETERS)) == (422, "handler"), "it is dead"
    assert [one["name"] for one in rest.client.get("/api/handlers").json()["items"]] == ["text"]


def test_while_kafka_is_unreachable_the_handlers_that_were_known_last_are_accepted(rest: Rest) -> None:
    announce(rest.services.engine, INVOICE, seconds_ago=30)
    with rest.services.engine.begin() as connection:
        insert_samples(connection, {0: 0}, since=90, upto=30)  # the group monitor has reached Kafka until then
    assert post(rest, handler="invoice", parameters=PARAMETERS).status_code == 201
    with rest.services.engine.begin() as connection:
        insert_samples(connection, {1: 0}, since=20)
    assert error_of(post(rest, handler="invoice", parameters=PARAMETERS)) == (422, "handler"), "it is dead"


def test_handlers_are_listed_with_their_schema_and_versions(rest: Rest) -> None:
    announce(rest.services.engine, INVOICE, worker="worker-2")
    older = msgspec.structs.replace(INVOICE, version="1", schema={})
    announce(rest.services.engine, older, worker="worker-1", seconds_ago=3)
    found = rest.client.get("/api/handlers/invoice").json()
    assert (found["version"], found["schema"]) == ("2", INVOICE.schema), "the worker that started last decides"
    assert found["versions"] == [{"version": "2", "workers": 1}, {"version": "1", "workers": 1}]
    assert (found["content_type"], found["max_concurrency"], found["timeout"]) == ("application/pdf", 2, 120)
    missing = rest.client.get("/api/handlers/letter")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    announce(rest.services.engine, worker="worker-1")
    with rest.services.connect() as connection:
        (invoice, _text) = live_handlers(connection)
    assert [one.version for one in invoice.versions] == ["2"], "what a worker does not announce again, it lost"


def test_a_repeated_job_gets_the_same_response(rest: Rest) -> None:
    announce(rest.services.engine, INVOICE)
    key = {"Idempotency-Key": "once"}
    first = post(rest, key, handler="invoice", parameters=PARAMETERS)
    assert first.status_code == 201
    stop(rest.services.engine)
    again = post(rest, key, handler="invoice", parameters=PARAMETERS)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.json() == first.json()
    other = post(rest, key, handler="invoice", parameters={**PARAMETERS, "number": "AB-8"})
    assert other.status_code == 409


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"$ref": "http://127.0.0.1:9/schema"}, {"properties": {"a": {"pattern": "("}}}],
)
def test_an_unusable_schema_refuses_the_requests_of_its_handler_only(rest: Rest, schema: dict[str, object]) -> None:
    announce(rest.services.engine, HandlerSpec(name="broken", schema=schema))
    assert error_of(post(rest, handler="broken", parameters={"a": "b"})) == (422, "handler")
    assert post(rest).status_code == 201


def test_a_pattern_that_backtracks_for_ever_is_cut_off(rest: Rest) -> None:
    evil: dict[str, object] = {"properties": {"a": {"pattern": r"^(?=(a+)+$)(a+)+$"}}}
    announce(rest.services.engine, HandlerSpec(name="evil", schema=evil))
    assert post(rest, handler="evil", parameters={"a": "a" * 40 + "!"}).status_code == 422


def test_the_command_line_submits_a_job(rest: Rest, tmp_path: Path) -> None:
    announce(rest.services.engine, INVOICE, seconds_ago=-60)  # a busy machine needs long to start the command
    file = tmp_path / "invoice.json"
    file.write_text(json.dumps(PARAMETERS))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "filemill", "submit", "An invoice", "--json", *arguments]
        environment = {**os.environ, **as_environment(rest.services.settings)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    done = run("--handler", "invoice", "--parameters", str(file), "--queue", "urgent")
    assert done.returncode == 0, done.stderr
    detail = rest.client.get(f"/api/files/{json.loads(done.stdout)['ids'][0]}").json()
    assert (detail["handler"], detail["queue"], detail["parameters"]) == ("invoice", "urgent", PARAMETERS)
    file.write_text(json.dumps({**PARAMETERS, "number": 5}))
    refused = run("--handler", "invoice", "--parameters", str(file))
    assert refused.returncode == 2
    assert "$.parameters.number" in refused.stderr
