"""Owners of files: who may act on a file, and whose files are hidden with FILEMILL_OWN_FILES_ONLY."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import Account, File, Operation, Tombstone
from filemill.config.settings import Settings
from filemill.domain.file_actions import FileSelection
from filemill.domain.files import NewFile, object_key
from filemill.domain.handlers import TEXT_SPEC, HandlerSpec
from filemill.domain.permissions import Principal, Role
from filemill.errors import InvalidRequest
from filemill.queries.files import list_files
from filemill.services.accounts import Accounts
from filemill.services.submissions import Submissions
from filemill.services.tokens import Tokens
from filemill_dashboard.state import page_data, principals
from filemill_dashboard.state import services as services_module
from filemill_dashboard.state.page_data import FileQuery
from filemill_dashboard.state.services import Services
from tests.integration.announcements import announce
from tests.integration.rest import Rest, change, serving
from tests.principals import TEST

PEOPLE = {"vera": Role.VIEWER, "sue": Role.SUBMITTER, "sam": Role.SUBMITTER, "olga": Role.OPERATOR, "abel": Role.ADMIN}


@pytest.fixture
def headers(engine: sa.Engine) -> dict[str, dict[str, str]]:
    """The header of each person's token."""
    accounts, tokens = Accounts(engine), Tokens(engine)
    for name, role in PEOPLE.items():
        accounts.add(name, role, "correct horse battery", TEST)
    made = {name: tokens.create("test", role, TEST, owner=name) for name, role in PEOPLE.items()}
    return {name: {"Authorization": f"Bearer {token.secret}"} for name, token in made.items()}


@pytest.fixture(params=[False, True], ids=["all", "own-only"])
def own_only(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def rest(settings: Settings, headers: dict[str, dict[str, str]], own_only: bool) -> Iterator[Rest]:
    del headers
    with serving(settings.model_copy(update={"auth": "accounts", "own_files_only": own_only})) as rest:
        yield rest


def create(rest: Rest, headers: dict[str, str], title: str = "A file", **more: Any) -> httpx.Response:
    answer = rest.client.post("/api/files", json={"title": title}, headers={**headers, **more})
    assert answer.status_code == 201, answer.text
    return answer


def refused_permissions(engine: sa.Engine, actor: str) -> list[str]:
    query = sa.select(Operation.detail).where(Operation.action == "refused", Operation.actor == actor)
    with engine.connect() as connection:
        return [detail["permission"] for detail in connection.execute(query.order_by(Operation.id)).scalars()]


def test_people_act_on_their_own_files_and_roles_on_those_of_others(
    rest: Rest, headers: dict[str, dict[str, str]], own_only: bool, engine: sa.Engine
) -> None:
    http, hidden = rest.client, 404 if own_only else 403
    own = create(rest, headers["sue"]).json()
    assert own["owner"] == "sue"
    path = f"/api/files/{own['id']}"
    with engine.begin() as connection:
        (old,) = insert_many(connection, [NewFile("Of an earlier version", "")])
    statuses = {
        name: [
            http.post(f"{path}/cancel", headers=headers[name]).status_code,
            http.post(f"{path}/retry", headers=headers[name]).status_code,
            http.delete(path, headers=headers[name]).status_code,
            http.post(f"/api/files/{old}/cancel", headers=headers[name]).status_code,
        ]
        for name in ("vera", "sam")
    }
    assert statuses == {"vera": [403] * 4, "sam": [hidden] * 4}
    assert refused_permissions(engine, "sam") == ["files.cancel", "files.retry", "files.delete", "files.cancel"]
    assert http.post(f"{path}/cancel", headers=headers["sue"]).json()["status"] == "cancelled"
    assert http.post(f"{path}/retry", headers=headers["sue"]).json()["run"] == 2
    assert http.post(f"{path}/cancel", headers=headers["olga"]).json()["status"] == "cancelled"
    assert http.post(f"{path}/retry", headers=headers["olga"]).json()["owner"] == "sue"
    assert http.post(f"{path}/cancel", headers=headers["olga"]).status_code == 200
    refused = http.delete(path, headers=headers["olga"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert http.delete(path, headers=headers["sue"]).status_code == 204
    with engine.connect() as connection:
        assert connection.execute(sa.select(Tombstone.owner)).scalars().all() == ["sue"]
    assert http.post(f"/api/files/{old}/cancel", headers=headers["olga"]).status_code == 200
    assert http.delete(f"/api/files/{old}", headers=headers["abel"]).status_code == 204


def test_bulk_actions_do_the_own_files_and_refuse_the_others(
    rest: Rest, headers: dict[str, dict[str, str]], own_only: bool
) -> None:
    own, other = create(rest, headers["sue"]).json()["id"], create(rest, headers["sam"]).json()["id"]
    answer = rest.client.post("/api/files/cancel", json={"ids": [own, other, 999]}, headers=headers["sue"]).json()
    reasons = {one["file_id"]: one["reason"] for one in answer["refused"]}
    assert answer["done"] == [own]
    assert reasons[999] == "there is no such file"
    missing = "Cancelling files of others requires the role operator; sue has the role submitter"
    assert reasons[other] == (reasons[999] if own_only else missing)
    for selector in ({"all": True}, {"all": True, "search": "A file"}):
        for action in ("cancel", "retry", "delete"):
            assert rest.client.post(f"/api/files/{action}", json=selector, headers=headers["sue"]).status_code == 403
    assert rest.client.post("/api/files/retry", json={"lost": True}, headers=headers["sue"]).status_code == 403
    done = rest.client.post("/api/files/cancel", json={"all": True}, headers=headers["olga"]).json()
    assert done["done"] == [other]
    assert rest.client.post("/api/files/delete", json={"all": True}, headers=headers["olga"]).status_code == 403


def test_lists_details_downloads_and_exports_have_only_visible_files(
    rest: Rest, headers: dict[str, dict[str, str]], own_only: bool, engine: sa.Engine
) -> None:
    http = rest.client
    ids = {name: create(rest, headers[name], f"Of {name}").json()["id"] for name in ("sue", "sam", "olga")}
    for file_id in ids.values():
        change(engine, file_id, status="completed", s3_location=None)
    seen_by = {"vera": set(), "sue": {"sue"}, "sam": {"sam"}} if own_only else {}
    for name in PEOPLE:
        visible = seen_by.get(name, set(ids))
        listed = http.get("/api/files", headers=headers[name]).json()["items"]
        assert {item["owner"] for item in listed} == visible, name
        found = http.get("/api/files?search=Of&status=completed&sort=oldest", headers=headers[name]).json()["items"]
        assert {item["owner"] for item in found} == visible, name
        exported = http.get("/api/files/export?format=ndjson", headers=headers[name]).text
        assert {owner for owner in ids if f'"Of {owner}"' in exported} == visible, name
        for owner, file_id in ids.items():
            status = 200 if owner in visible else 404
            assert http.get(f"/api/files/{file_id}", headers=headers[name]).status_code == status, (name, owner)
            by_id = http.get(f"/api/files?search=%23{file_id}", headers=headers[name]).json()["items"]
            assert len(by_id) == (owner in visible), (name, owner)
            # Completed without an object: a conflict for those who may see the file.
            download = http.get(f"/api/files/{file_id}/download", headers=headers[name])
            assert download.status_code == (409 if owner in visible else 404), (name, owner)


def test_pages_of_own_files_are_complete(rest: Rest, headers: dict[str, dict[str, str]], own_only: bool) -> None:
    for number in range(4):
        for name in ("sue", "sam"):
            create(rest, headers[name], f"{name} {number}")
    found, cursor = [], ""
    while True:
        page = rest.client.get("/api/files", params={"limit": 3, "cursor": cursor}, headers=headers["sue"]).json()
        found += [item["owner"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(found) == (["sue"] * 4 if own_only else ["sam"] * 4 + ["sue"] * 4)


@pytest.mark.parametrize("own_only", [True], indirect=True)
def test_an_idempotency_key_belongs_to_a_person(rest: Rest, headers: dict[str, dict[str, str]]) -> None:
    first = create(rest, headers["sue"], **{"Idempotency-Key": "1"})
    again = create(rest, headers["sue"], **{"Idempotency-Key": "1"})
    other = create(rest, headers["sam"], **{"Idempotency-Key": "1"})
    assert again.json()["id"] == first.json()["id"]
    assert other.json()["id"] != first.json()["id"]
    different = rest.client.post(
        "/api/files", json={"title": "Other"}, headers={**headers["olga"], "Idempotency-Key": "1"}
    )
    assert different.status_code == 201


@pytest.mark.parametrize("own_only", [True], indirect=True)
def test_files_of_a_deleted_owner_stay_for_operators(
    rest: Rest, headers: dict[str, dict[str, str]], engine: sa.Engine
) -> None:
    file_id = create(rest, headers["sue"]).json()["id"]
    with engine.begin() as connection:
        connection.execute(sa.delete(Account).where(Account.name == "sue"))
    assert rest.client.get(f"/api/files/{file_id}", headers=headers["sam"]).status_code == 404
    assert rest.client.get(f"/api/files/{file_id}", headers=headers["olga"]).json()["owner"] == "sue"
    assert rest.client.post(f"/api/files/{file_id}/cancel", headers=headers["olga"]).status_code == 200
    assert rest.client.delete(f"/api/files/{file_id}", headers=headers["abel"]).status_code == 204


def test_all_ways_to_submit_store_the_owner(engine: sa.Engine) -> None:
    submissions, sue, sam = Submissions(engine), Principal("sue", Role.SUBMITTER), Principal("sam", Role.SUBMITTER)
    file, job = NewFile("A file", ""), NewFile("In a queue", "", queue="bulk")
    submissions.submit(file, principal=sue)
    submissions.submit_batch([file, file, job], [None] * 3, principals=[sam, sue, sam])
    submissions.submit_once(file, "key", principal=sue)
    submissions.submit_many([file, file], principal=sam)
    submissions.submit_many_once([job], "key", principal=TEST)
    with engine.connect() as connection:
        found = connection.execute(sa.select(File.owner).order_by(File.id)).scalars().all()
    assert found == ["sue", "sam", "sue", "sam", "sue", "sam", "sam", "test"]


def test_people_of_a_proxy_have_lists_and_idempotency_keys_of_their_own(engine: sa.Engine) -> None:
    submissions = Submissions(engine)
    ann, bob = (Principal(f"proxy:{name}", Role.SUBMITTER) for name in ("ann", "bob"))
    first, _ = submissions.submit_once(NewFile("Ann's", ""), "key", principal=ann)
    second, known = submissions.submit_once(NewFile("Bob's", ""), "key", principal=bob)
    assert not known
    assert submissions.submit_many_once([NewFile("Ann's", "")], "key", principal=ann) == [first.id]
    with engine.connect() as connection:
        assert [row.id for row in list_files(connection, FileSelection(owner=ann.name)).items] == [first.id]
        assert [row.id for row in list_files(connection, FileSelection(owner=bob.name)).items] == [second.id]


def test_inputs_are_own_results_if_files_of_others_are_hidden(engine: sa.Engine) -> None:
    announce(engine, TEXT_SPEC, HandlerSpec(name="table", schema={"type": "object"}, content_type="text/csv"))
    sue, sam, olga = (Principal(name, PEOPLE[name]) for name in ("sue", "sam", "olga"))
    submissions = Submissions(engine, own_files_only=True)
    keys = {}
    for who in (sue, sam):
        row = submissions.submit(NewFile("A file", ""), principal=who)
        keys[who.name] = object_key(row.id, row.created_at)
        change(engine, row.id, status="completed", s3_location=keys[who.name])
    pending = submissions.submit(NewFile("Pending", ""), principal=sue)

    def job(key: str) -> NewFile:
        return NewFile("A job", handler="table", inputs={"data.csv": key})

    ways: list[Callable[[NewFile, Principal], object]] = [
        lambda file, who: submissions.submit(file, principal=who),
        lambda file, who: submissions.submit_once(file, file.inputs["data.csv"], principal=who),
        lambda file, who: submissions.submit_many([file], principal=who),
        lambda file, who: submissions.submit_many_once([file], file.inputs["data.csv"], principal=who),
    ]
    of_others = [
        keys["sam"],
        f"s3://{keys['sam']}",
        f"/{keys['sam']}",
        f"x/../{keys['sam']}",
        object_key(pending.id, pending.created_at),
        keys["sue"].replace("file-", "checkpoint-"),
        "file-999-1.txt",
        "other.csv",
    ]
    for submit in ways:
        for key in of_others:
            with pytest.raises(InvalidRequest, match="is not the key of a completed file of yours") as caught:
                submit(job(key), sue)
            assert caught.value.field == "inputs.data.csv"
        submit(job(f"s3://{keys['sue']}"), sue)
        submit(job(keys["sam"]), olga)
    Submissions(engine).submit(job(keys["sam"]), principal=sue)


def test_page_data_hides_files_of_others(
    settings: Settings, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submissions, sue = Submissions(engine), Principal("sue", Role.SUBMITTER)
    own = submissions.submit(NewFile("Own", ""), principal=sue).id
    other = submissions.submit(NewFile("Secret", ""), principal=Principal("sam", Role.SUBMITTER)).id
    change(engine, other, status="processing", worker_id="w1")
    with engine.begin() as connection:
        tombstone = {"file_id": 999, "run": 1, "status": "failed", "title": "Deleted secret", "owner": "sam"}
        connection.execute(sa.insert(Tombstone).values(tombstone))
    services_module.install(Services(settings.model_copy(update={"own_files_only": True}), engine))
    try:
        data = page_data.current()
        seen = {}
        for viewer in (sue, Principal("olga", Role.OPERATOR), Principal("vera", Role.VIEWER), Principal("x", None)):
            monkeypatch.setattr(principals, "PAGE", viewer)
            listed = data.files(FileQuery()).value
            counts = data.matching_counts("").value
            gone = data.file_timeline(999).value
            assert listed is not None
            assert counts is not None
            assert gone is not None
            seen[viewer.name] = (
                [row.title for row in listed.items],
                counts.total,
                [data.file(one).value is not None for one in (own, other)],
                [data.job(one).value is not None for one in (own, other)],
                [(data.file_timeline(one).value or gone).file is not None for one in (own, other)],
                gone.deleted_title,
                [file.title for file in data.worker_files("w1").value or []],
            )
    finally:
        services_module.install(None)
    nothing: Any = ([], 0, [False, False], [False, False], [False, False], None, [])
    assert seen == {
        "sue": (["Own"], 1, [True, False], [True, False], [True, False], None, []),
        "olga": (["Secret", "Own"], 2, [True, True], [True, True], [True, True], "Deleted secret", ["Secret"]),
        "vera": nothing,
        "x": nothing,
    }
