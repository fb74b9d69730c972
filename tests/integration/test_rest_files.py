"""REST: create, list, show and download files, over HTTP and on real servers."""

import httpx
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import OutboxRow
from filemill.config.settings import Settings
from filemill.domain.content import sha256_hex
from filemill_dashboard.state.downloads import CHECK_WHOLE_BYTES
from tests.integration.rest import Rest, change

REFERENCE_COLUMNS = ["id", "title", "description", "status", "s3_location", "created_at", "updated_at"]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_created_file_is_returned_and_listed(rest: Rest, engine: sa.Engine) -> None:
    title = "<script>alert(1)</script> =1+1 📄"
    answer = rest.client.post("/api/files", json={"title": title, "description": "two\nlines"})
    assert answer.status_code == 201
    row = answer.json()
    assert list(row)[:7] == REFERENCE_COLUMNS
    assert (row["title"], row["description"], row["status"], row["s3_location"]) == (
        title,
        "two\nlines",
        "pending",
        None,
    )
    assert row["created_at"].endswith("Z")
    assert answer.headers["location"] == f"/api/files/{row['id']}"
    assert rest.relay.woken == 1

    # The list has no parameters and inputs, which may be long.
    assert rest.client.get(answer.headers["location"]).json() == {**row, "parameters": None, "inputs": None}
    assert rest.client.get("/api/files").json() == {"items": [row], "next_cursor": None, "previous_cursor": None}
    with engine.connect() as connection:
        assert connection.execute(sa.select(OutboxRow.file_id, OutboxRow.run)).all() == [(row["id"], 1)]


def test_the_trace_context_is_stored_in_the_outbox(rest: Rest, engine: sa.Engine) -> None:
    rest.client.post("/api/files", json={"title": "traced"}, headers={"traceparent": TRACEPARENT})
    rest.client.post("/api/files", json={"title": "not"}, headers={"traceparent": "rubbish"})
    with engine.connect() as connection:
        first, second = connection.execute(sa.select(OutboxRow.traceparent).order_by(OutboxRow.id)).scalars()
    assert first == TRACEPARENT
    assert second.startswith("00-")


@pytest.mark.parametrize(
    ("title", "description"),
    [("x" * 255, ""), ("😀" * 255, ""), ("=1+1", "é" * 32_768), ("a", "tab\tand\r\nbreaks")],
)
def test_values_at_the_limits_are_accepted(title: str, description: str, rest: Rest) -> None:
    file_id = rest.create(title, description)
    row = rest.client.get(f"/api/files/{file_id}").json()
    assert (row["title"], row["description"]) == (title, description)


def test_unknown_fields_and_a_null_description_are_ignored(rest: Rest) -> None:
    answer = rest.client.post("/api/files", json={"title": "a", "description": None, "status": "completed", "id": 99})
    assert answer.status_code == 201
    assert (answer.json()["description"], answer.json()["status"]) == ("", "pending")
    assert answer.json()["id"] != 99


def test_cursors_lead_to_the_next_and_the_previous_page(rest: Rest) -> None:
    ids = [rest.create(f"file {number}") for number in range(7)]
    first = rest.client.get("/api/files", params={"limit": 3}).json()
    assert [row["id"] for row in first["items"]] == ids[:3:-1]
    assert first["previous_cursor"] is None
    second = rest.client.get("/api/files", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [row["id"] for row in second["items"]] == ids[3:0:-1]
    rest.create("one more does not shift the pages")
    third = rest.client.get("/api/files", params={"limit": 3, "cursor": second["next_cursor"]}).json()
    assert [row["id"] for row in third["items"]] == ids[:1]
    assert third["next_cursor"] is None
    back = rest.client.get("/api/files", params={"limit": 3, "cursor": third["previous_cursor"]}).json()
    assert back["items"] == second["items"]


def test_the_list_can_be_sorted_oldest_first(rest: Rest) -> None:
    ids = [rest.create(f"file {number}") for number in range(5)]
    first = rest.client.get("/api/files", params={"limit": 3, "sort": "oldest"}).json()
    assert [row["id"] for row in first["items"]] == ids[:3]
    then = rest.client.get("/api/files", params={"limit": 3, "sort": "oldest", "cursor": first["next_cursor"]}).json()
    assert ([row["id"] for row in then["items"]], then["next_cursor"]) == (ids[3:], None)
    assert rest.client.get("/api/files", params={"sort": "title"}).status_code == 422


def test_the_list_is_filtered_by_status_and_search(rest: Rest, engine: sa.Engine) -> None:
    ids = [rest.create(title) for title in ("Report A", "report_b", "100% done", "back\\slash")]
    change(engine, ids[0], status="failed", error="no luck")

    def found(**params: str) -> list[int]:
        answer = rest.client.get("/api/files", params=params)
        assert answer.status_code == 200, answer.text
        return [row["id"] for row in answer.json()["items"]]

    assert found(status="failed") == [ids[0]]
    assert found(status="completed") == []
    assert found(search="REPORT") == [ids[1], ids[0]]
    assert found(search="report", status="pending") == [ids[1]]
    assert found(search="_") == [ids[1]]
    assert found(search="%") == [ids[2]]
    assert found(search="\\") == [ids[3]]
    assert found(search=f"#{ids[2]}") == [ids[2]]
    assert found(search="#99999999999999999999") == []
    assert found(search="#" + "0" * 20 + "9" * 30) == []
    assert found(search="#" + "9" * 5000) == []
    assert found(search=f"#{'0' * 20}{ids[2]}") == [ids[2]]
    assert found(search="\0") == []
    assert found(search="x" * 5000) == []
    assert len(found(search=" ")) == 4


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"status": "done"}, "status"),
        ({"cursor": "12"}, "cursor"),
        ({"cursor": "before-"}, "cursor"),
        ({"cursor": "before-99999999999999999999"}, "cursor"),
        ({"cursor": "before-٣"}, "cursor"),
        ({"cursor": "before-" + "0" * 20 + "9" * 30}, "cursor"),
        ({"cursor": "9" * 5000}, "cursor"),
    ],
)
def test_an_invalid_parameter_is_named(params: dict[str, str], field: str, rest: Rest) -> None:
    answer = rest.client.get("/api/files", params=params)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field


@pytest.mark.parametrize("file_id", ["1", "0", "-5", "9223372036854775807", "9223372036854775808", "9" * 40])
def test_an_unknown_file_is_404(file_id: str, rest: Rest) -> None:
    for path in (f"/api/files/{file_id}", f"/api/files/{file_id}/download"):
        answer = rest.client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"] == {"code": "not_found", "message": f"there is no file {file_id}", "field": "id"}


@pytest.mark.parametrize("file_id", ["abc", "1.0", "+1", "1_0", "1e1", "٣", "%201", "1%20", "1%00", "0x1", "--1"])
@pytest.mark.parametrize(("method", "rest_of_path"), [("GET", ""), ("GET", "/download"), ("POST", "/retry")])
def test_an_id_that_is_not_a_number_is_422(file_id: str, method: str, rest_of_path: str, rest: Rest) -> None:
    rest.create("the file 1 is not meant")
    answer = rest.client.request(method, f"/api/files/{file_id}{rest_of_path}")
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "id"


def test_the_content_of_a_completed_file_is_downloaded(rest: Rest, engine: sa.Engine, settings: Settings) -> None:
    body = bytes(range(256)) * 1000
    file_id = rest.create("to download")
    key = f"file-{file_id}-1704369660000.txt"
    rest.services.s3.put_object(Bucket=settings.s3_bucket, Key=key, Body=body, ContentType="text/html")
    change(engine, file_id, status="completed", s3_location=key)

    answer = rest.client.get(f"/api/files/{file_id}/download")
    assert answer.status_code == 200
    assert answer.content == body
    assert answer.headers["content-length"] == str(len(body))
    assert answer.headers["content-disposition"] == f'attachment; filename="{key}"'
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_foreign_key_gives_a_safe_file_name(rest: Rest, engine: sa.Engine, settings: Settings) -> None:
    file_id = rest.create("foreign")
    key = 'reports/ü "quoted"; x=1.txt'
    rest.services.s3.put_object(Bucket=settings.s3_bucket, Key=key, Body=b"x")
    change(engine, file_id, status="completed", s3_location=key)
    answer = rest.client.get(f"/api/files/{file_id}/download")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith('attachment; filename="_ _quoted__ x=1.txt"; filename*=')


def test_only_a_completed_file_can_be_downloaded(rest: Rest, engine: sa.Engine) -> None:
    file_id = rest.create("not yet")
    answer = rest.client.get(f"/api/files/{file_id}/download")
    assert answer.status_code == 409
    assert answer.json()["error"]["message"] == f"file {file_id} is pending, not completed"
    change(engine, file_id, status="failed", error="no template")
    answer = rest.client.get(f"/api/files/{file_id}/download")
    assert answer.json()["error"]["message"] == f"file {file_id} is failed, not completed: no template"


def test_a_missing_object_is_404(rest: Rest, engine: sa.Engine, settings: Settings) -> None:
    file_id = rest.create("gone")
    change(engine, file_id, status="completed", s3_location=f"file-{file_id}-1.txt")
    answer = rest.client.get(f"/api/files/{file_id}/download")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "object_missing"
    assert settings.s3_bucket in answer.json()["error"]["message"]


@pytest.mark.parametrize("size", [5_000, 1_048_576, 3_000_001])
def test_an_object_that_does_not_match_the_row_is_not_sent(
    rest: Rest, engine: sa.Engine, settings: Settings, size: int
) -> None:
    file_id, key = rest.create("replaced"), "made/replaced.bin"
    made = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    forged = made[:-1] + b"!"
    path = f"/api/files/{file_id}/download"
    change(engine, file_id, status="completed", s3_location=key, sha256=sha256_hex(made), size=size)
    rest.services.s3.put_object(Bucket=settings.s3_bucket, Key=key, Body=made)
    assert rest.client.get(path).content == made

    rest.services.s3.put_object(Bucket=settings.s3_bucket, Key=key, Body=forged)
    if size > CHECK_WHOLE_BYTES:
        with pytest.raises(httpx.RemoteProtocolError):  # the response is cut before its end
            rest.client.get(path)
    else:
        answer = rest.client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "object_differs")
        assert f"file {file_id}" in answer.json()["error"]["message"]

    rest.services.s3.put_object(Bucket=settings.s3_bucket, Key=key, Body=made + b"more")
    assert rest.client.get(path).status_code == 502
    change(engine, file_id, s3_location=f"file-{file_id + 1}-1.txt")
    assert rest.client.get(path).status_code == 502
