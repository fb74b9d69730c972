"""REST and the command line: the audit log with its filters, page by page, and as an export."""

import csv
import io
import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from filemill.config.settings import Settings
from filemill.domain.permissions import Role, local_admin
from filemill.entrypoints import bootstrap
from filemill.services.audit import REFUSED, record
from tests.integration.rest import Rest, serving
from tests.integration.test_cli_operations import Command, command
from tests.principals import TEST

__all__ = ["command"]

PASSWORD = "correct horse battery"


@pytest.fixture
def rest(settings: Settings, engine: sa.Engine) -> Iterator[Rest]:
    with engine.begin() as connection:
        record(connection, TEST, "cancel", {"files": [[7, 1], [8, 1]], "asked": 2})
        record(connection, local_admin("ann"), "delete", {"files": [7], "asked": 1})
        record(connection, local_admin("ann"), "quiet", {"worker": "=w-7"})
        record(connection, local_admin("bob"), REFUSED, {"refused": "no", "path": "/api/files/7"})
    with serving(settings) as rest:
        yield rest


def actions(rest: Rest, **wanted: str) -> list[str]:
    answer = rest.client.get("/api/audit", params=wanted)
    assert answer.status_code == 200, answer.text
    return [item["action"] for item in answer.json()["items"]]


def test_the_log_is_filtered(rest: Rest) -> None:
    assert actions(rest) == ["refused", "quiet", "delete", "cancel"]
    assert actions(rest, actor="ann") == ["quiet", "delete"]
    assert actions(rest, action="cancel") == ["cancel"]
    assert actions(rest, object="7") == ["delete", "cancel"]
    assert actions(rest, refused="true") == ["refused"]
    assert actions(rest, actor="ann", object="7", refused="false") == ["delete"]
    assert actions(rest, since="2999-01-01T00:00:00Z") == []
    assert actions(rest, since="2020-01-01T00:00:00") == ["refused", "quiet", "delete", "cancel"]
    assert actions(rest, since="0001-01-01T00:00:00+14:00") == ["refused", "quiet", "delete", "cancel"]
    assert actions(rest, actor="\0") == []
    assert actions(rest, actor="' OR true --") == []


def test_pages_follow_each_other(rest: Rest) -> None:
    first = rest.client.get("/api/audit", params={"limit": 3}).json()
    last = rest.client.get("/api/audit", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [item["sequence"] for item in [*first["items"], *last["items"]]] == [4, 3, 2, 1]
    assert last["next_cursor"] is None
    item = first["items"][0]
    assert (item["actor"], item["authentication"], item["address"], item["request_id"]) == ("bob", "local", None, None)
    assert len(item["hash"]) == 64


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"cursor": "x"}, "cursor"),
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"refused": "perhaps"}, "refused"),
        ({"since": "soon"}, "since"),
        ({"since": "0.5"}, "since"),
        ({"since": "2026-11-30"}, "since"),
        ({"object": "x" * 201}, "object"),
        ({"actor": "x" * 201}, "actor"),
    ],
)
def test_a_wrong_parameter_is_named(wanted: dict[str, str], field: str, rest: Rest) -> None:
    answer = rest.client.get("/api/audit", params=wanted)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_the_export_has_all_that_match(rest: Rest) -> None:
    answer = rest.client.get("/api/audit/export", params={"actor": "ann"})
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [row["action"] for row in rows] == ["quiet", "delete"]
    lines = rest.client.get("/api/audit/export", params={"format": "ndjson", "object": "=w-7"}).text.splitlines()
    assert [json.loads(line)["detail"]["worker"] for line in lines] == ["=w-7"]
    assert rest.client.get("/api/audit/export", params={"format": "xml"}).status_code == 422


def test_submitters_may_not_read_it(settings: Settings, engine: sa.Engine) -> None:
    bootstrap.accounts(engine).add("sue", Role.SUBMITTER, PASSWORD, TEST)
    bootstrap.accounts(engine).add("olga", Role.OPERATOR, PASSWORD, TEST)
    with serving(settings.model_copy(update={"auth": "accounts"})) as rest:
        for name, status in (("sue", 403), ("olga", 200)):
            rest.client.post("/sign-in", data={"name": name, "password": PASSWORD})
            for path in ("/api/audit", "/api/audit/export"):
                assert rest.client.get(path).status_code == status


def test_the_command_lists_and_filters(rest: Rest, command: Command) -> None:
    del rest
    listed = command("audit", "list", "--limit", "3")
    assert listed.exit_code == 0
    assert "--before 2" in listed.stderr
    assert [line.split()[3] for line in listed.stdout.splitlines()[1:]] == ["bob", "ann", "ann"]
    found = json.loads(command("audit", "list", "--before", "4", "--actor", "ann", "--object", "7", "--json").stdout)
    assert ([row["action"] for row in found["rows"]], found["next"]) == (["delete"], None)
    assert json.loads(command("audit", "list", "--refused", "--json").stdout)["rows"][0]["actor"] == "bob"
    assert command("audit", "list", "--limit", "0").exit_code == 2
