"""REST: retry, cancel, delete, one and many; dead letters; workers."""

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import Operation, Tombstone
from filemill.adapters.postgres.worker_events import store_events
from filemill.config.settings import Settings
from filemill.domain.files import NewFile
from filemill.domain.permissions import local_admin
from filemill.domain.worker_events import EventKind, Vitals, WorkerEvent
from filemill.entrypoints import bootstrap
from filemill.ports import ReceivedEvent
from filemill.queries.group import Lags, PartitionLag
from filemill.queries.overview import overview
from filemill.services.audit import record
from tests.integration import topics
from tests.integration.group_samples import insert_samples
from tests.integration.processes import wait_until
from tests.integration.rest import Rest, change, serving
from tests.integration.test_rest_health import closed_port

CHECK_SECONDS = 30.0


def failed(rest: Rest, engine: sa.Engine, title: str = "a") -> int:
    """A file whose request is through the outbox and failed."""
    file_id = rest.create(title)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM outbox WHERE file_id = :id"), {"id": file_id})
    change(engine, file_id, status="failed", error="no luck")
    return file_id


def test_a_file_is_cancelled_retried_and_deleted(rest: Rest, engine: sa.Engine, settings: Settings) -> None:
    file_id = rest.create("on and off")
    cancelled = rest.client.post(f"/api/files/{file_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    woken = rest.relay.woken
    retried = rest.client.post(f"/api/files/{file_id}/retry")
    assert (retried.json()["status"], retried.json()["run"]) == ("pending", 2)
    assert rest.relay.woken == woken + 1

    rest.client.post(f"/api/files/{file_id}/cancel")
    key = "file-1-1.txt"
    s3 = bootstrap.s3_client(settings)
    s3.put_object(Bucket=settings.s3_bucket, Key=key, Body=b"x")
    change(engine, file_id, s3_location=key)
    assert rest.client.delete(f"/api/files/{file_id}").status_code == 204
    assert rest.client.get(f"/api/files/{file_id}").status_code == 404
    assert s3.list_objects_v2(Bucket=settings.s3_bucket)["KeyCount"] == 0
    with engine.connect() as connection:
        assert connection.execute(sa.select(Tombstone.file_id)).scalars().all() == [file_id]
        audit = connection.execute(sa.select(Operation.actor, Operation.action).order_by(Operation.id)).all()
    assert [tuple(row) for row in audit] == [
        ("rest:127.0.0.1", action) for action in ("cancel", "retry", "cancel", "delete")
    ]


def test_the_audit_record_has_the_address_and_the_id_of_the_request(rest: Rest, engine: sa.Engine) -> None:
    file_id = rest.create("a")
    answers = [rest.client.post(f"/api/files/{file_id}/{action}") for action in ("cancel", "retry")]
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(Operation.authentication, Operation.address, Operation.request_id).order_by(Operation.id)
        ).all()
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert [tuple(row) for row in rows] == [("local", "127.0.0.1", request_id) for request_id in ids]
    assert ids[0] != ids[1]


def test_a_client_cannot_choose_the_actor_of_the_audit_record(rest: Rest, engine: sa.Engine) -> None:
    file_id = rest.create("a")
    headers = {"X-Forwarded-For": "x" * 30_000, "Forwarded": f"for={'y' * 1000}", "X-Request-Id": "mine"}
    assert rest.client.post(f"/api/files/{file_id}/cancel", headers=headers).status_code == 200
    with engine.begin() as connection:
        assert connection.execute(sa.select(Operation.actor)).scalars().all() == ["rest:127.0.0.1"]
        assert "mine" not in connection.execute(sa.select(Operation.request_id)).scalars().all()
        record(connection, local_admin("cli:\x1b[31m\n" + "z" * 30_000), "retry", {})
        (last,) = connection.execute(sa.select(Operation.actor).order_by(Operation.id.desc()).limit(1)).scalars()
    assert len(last) <= 200
    assert last.isprintable()


def test_requests_gone_from_kafka_are_retried_singly_and_in_bulk(
    rest: Rest, engine: sa.Engine, settings: Settings
) -> None:
    ids = [rest.create(f"gone {number}") for number in range(4)]
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM outbox"))
        connection.execute(
            sa.text("""
                INSERT INTO publications (publish_number, file_id, run, partition, "offset")
                SELECT id, id, 1, 1, row_number() OVER (ORDER BY id) - 1 FROM files
            """)
        )
    topics.publish(settings, settings.topic_create, [b"{}"] * 4, partition=1)
    assert rest.client.post(f"/api/files/{ids[0]}/retry").status_code == 409, "it waits"
    topics.delete_before(settings, settings.topic_create, 1, 3)
    woken = rest.relay.woken
    answer = rest.client.post(f"/api/files/{ids[0]}/retry")
    assert (answer.status_code, answer.json()["status"], answer.json()["run"]) == (200, "pending", 2)
    some = rest.client.post("/api/files/retry", json={"lost": True, "limit": 1})
    assert some.json() == {"done": [ids[1]], "refused": [], "more": True}
    rest_of_them = rest.client.post("/api/files/retry", json={"lost": True})
    assert rest_of_them.json() == {"done": [ids[2]], "refused": [], "more": False}
    assert rest.relay.woken >= woken + 3
    assert rest.client.get(f"/api/files/{ids[3]}").json()["run"] == 1
    assert rest.client.post("/api/files/cancel", json={"lost": True}).status_code == 422
    assert rest.client.post("/api/files/retry", json={"lost": True, "all": True}).status_code == 422


@pytest.mark.parametrize(("verb", "said"), [("retry", "retried"), ("delete", "deleted")])
def test_a_refused_action_is_409_with_its_reason(verb: str, said: str, rest: Rest) -> None:
    file_id = rest.create("waits")
    path = f"/api/files/{file_id}"
    answer = rest.client.delete(path) if verb == "delete" else rest.client.post(f"{path}/{verb}")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "not_possible"
    assert f"was not {said}: it is pending" in answer.json()["error"]["message"]
    assert rest.client.get(path).json()["status"] == "pending"


@pytest.mark.parametrize("file_id", ["99", "0", "-1", str(2**63), "9" * 5000])
def test_an_action_on_an_unknown_file_is_404(file_id: str, rest: Rest) -> None:
    assert rest.client.post(f"/api/files/{file_id}/retry").status_code == 404
    assert rest.client.post(f"/api/files/{file_id}/cancel").status_code == 404
    assert rest.client.delete(f"/api/files/{file_id}").status_code == 404


def test_a_bulk_action_selects_files_by_id_or_by_filter(rest: Rest, engine: sa.Engine) -> None:
    ids = [failed(rest, engine, title) for title in ("report a", "report b", "report c", "note")]
    waiting = rest.create("report d")
    some = rest.client.post("/api/files/retry", json={"ids": [ids[0], waiting, 999]}).json()
    assert some["done"] == [ids[0]]
    assert [one["reason"] for one in some["refused"]] == [
        "it is pending: only a file in a final status can be retried",
        "there is no such file",
    ]
    matching = {"all": True, "status": "failed", "search": "REPORT", "limit": 1}
    first = rest.client.post("/api/files/delete", json=matching).json()
    assert (first["done"], first["more"]) == ([ids[1]], True)
    second = rest.client.post("/api/files/delete", json=matching).json()
    assert (second["done"], second["more"]) == ([ids[2]], False)
    left = {row["id"]: row["status"] for row in rest.client.get("/api/files").json()["items"]}
    assert left == {ids[0]: "pending", ids[3]: "failed", waiting: "pending"}
    with engine.begin() as connection:
        urgent, invoice = insert_many(connection, [NewFile("u", queue="urgent"), NewFile("i", "", "invoice")])
    for narrowed, expected in (({"queue": "urgent"}, urgent), ({"handler": "invoice"}, invoice)):
        assert rest.client.post("/api/files/cancel", json={"all": True, **narrowed}).json()["done"] == [expected]
    everything = rest.client.post("/api/files/cancel", json={"all": True}).json()
    assert everything["done"] == [ids[0], waiting]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": [1], "all": True},
        {"ids": ["1"]},
        {"ids": [0]},
        {"ids": [2**63]},
        {"ids": [1.5]},
        {"ids": ["1.0"]},
        {"ids": [True]},
        {"ids": list(range(1, 1002))},
        {"all": True, "status": "lost"},
        {"all": True, "limit": 0},
        {"al": True},
        [],
        7,
    ],
)
def test_an_invalid_bulk_request_is_422_and_changes_nothing(body: object, rest: Rest) -> None:
    file_id = rest.create("stays")
    answer = rest.client.post("/api/files/cancel", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] == "invalid"
    assert rest.client.get(f"/api/files/{file_id}").json()["status"] == "pending"


def test_a_page_of_another_site_cannot_change_anything(rest: Rest) -> None:
    file_id = rest.create("stays")
    evil = {"origin": "https://evil.example"}
    for answer in (
        rest.client.post(f"/api/files/{file_id}/cancel", headers=evil),
        rest.client.delete(f"/api/files/{file_id}", headers=evil),
        rest.client.post("/api/files/cancel", json={"all": True}, headers=evil),
        rest.client.post("/api/dead-letters/replay", json={"places": ["0:0"]}, headers=evil),
        rest.client.post("/api/workers/w/quiet", headers=evil),
    ):
        assert answer.status_code == 403
    assert rest.client.get(f"/api/files/{file_id}").json()["status"] == "pending"


def test_dead_letters_are_listed_and_replayed(rest: Rest, engine: sa.Engine, settings: Settings) -> None:
    file_id = failed(rest, engine, "broken")
    now = datetime.now(UTC).isoformat()
    value = {"fileId": file_id, "title": "broken", "description": "", "timestamp": now}
    topics.publish(settings, settings.topic_dead_letters, [json.dumps(value).encode()], partition=0)
    topics.publish(settings, settings.topic_dead_letters, [b"\xff not json"], partition=1)

    found = rest.client.get("/api/dead-letters").json()
    assert found["total"] == 2
    assert {letter["place"]: letter["refusal"] for letter in found["items"]} == {
        "0:0": None,
        "1:0": "the record has no valid file id",
    }
    assert {letter["value"] for letter in found["items"]} == {json.dumps(value), "\\xff not json"}
    assert rest.client.get("/api/dead-letters", params={"reason": "nothing of it"}).json()["items"] == []

    order = {"places": ["0:0", "1:0"], "dry_run": True}
    dry = rest.client.post("/api/dead-letters/replay", json=order).json()
    assert (dry["files"], list(dry["refused"])) == ([file_id], ["1:0"])
    assert rest.client.get(f"/api/files/{file_id}").json()["status"] == "failed"
    real = rest.client.post("/api/dead-letters/replay", json={"places": ["0:0"]}).json()
    assert real["files"] == [file_id]
    assert rest.client.get(f"/api/files/{file_id}").json()["run"] == 2
    assert rest.client.get("/api/dead-letters", params={"still_broken": True}).json()["total"] == 1
    assert rest.client.post("/api/dead-letters/replay", json={"places": ["7:7"]}).status_code == 404


def test_workers_and_the_pipeline_are_empty_at_first(rest: Rest) -> None:
    assert rest.client.get("/api/workers").json() == {"items": [], "total": 0, "next_cursor": None}
    for act in ("quiet", "resume"):
        refused = rest.client.post(f"/api/workers/nobody/{act}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        assert "there is no worker named nobody" in refused.json()["error"]["message"]
    glance = rest.client.get("/api/pipeline").json()
    assert glance["counts"]["by_status"]["pending"] == 0
    assert glance["group"] is None


def test_workers_are_listed_in_pages(rest: Rest, engine: sa.Engine) -> None:
    names = [f"worker-{number:02}" for number in range(7)]
    for number, name in enumerate(names):
        event = WorkerEvent(kind=EventKind.HEARTBEAT, worker_id=name, timestamp=datetime.now(UTC), vitals=Vitals())
        with engine.begin() as connection:
            store_events(connection, [ReceivedEvent(0, number, event)])
    seen: list[str] = []
    page = {"next_cursor": ""}
    while page["next_cursor"] is not None:
        answer = rest.client.get("/api/workers", params={"limit": 3, "cursor": page["next_cursor"]})
        page = answer.json()
        assert page["total"] == 7
        seen += [worker["id"] for worker in page["items"]]
    assert seen == names
    assert rest.client.get("/api/workers", params={"cursor": "before-1"}).status_code == 422
    assert rest.client.get("/api/workers", params={"limit": 501}).status_code == 422


def test_a_silent_worker_is_dead_and_without_kafka_it_is_unknown(settings: Settings, engine: sa.Engine) -> None:
    event = WorkerEvent(
        kind=EventKind.HEARTBEAT, worker_id="w", timestamp=datetime.now(UTC) - timedelta(minutes=1), vitals=Vitals()
    )
    hold = "INSERT INTO leases (name, holder, fencing, expires_at) VALUES ('sync', 's', 1, now() + interval '1 h')"
    with engine.begin() as connection:
        store_events(connection, [ReceivedEvent(0, 0, event)])
        connection.execute(sa.text(hold))

    def becomes(condition: str, rest: Rest) -> None:
        """Wait for the first check of Kafka, until which it counts as reachable."""

        def shown() -> bool:
            return [one["condition"] for one in rest.client.get("/api/workers").json()["items"]] == [condition]

        wait_until(shown, CHECK_SECONDS, f"the worker is {condition}")

    with serving(settings) as rest:
        becomes("dead", rest)
    with serving(settings.model_copy(update={"kafka_broker": f"127.0.0.1:{closed_port()}"})) as rest:
        becomes("unknown", rest)


def test_without_kafka_the_group_is_unknown(settings: Settings, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        insert_samples(connection, {0: 990}, group=settings.kafka_group)
    with serving(settings) as rest:
        known = rest.client.get("/api/pipeline").json()
        assert (known["group"]["state"], known["lags"]["partitions"][0]["lag"]) == ("STABLE", 10)
        assert known["unreachable"] == []
    with serving(settings.model_copy(update={"kafka_broker": f"127.0.0.1:{closed_port()}"})) as rest:

        def unreachable() -> bool:
            found: list[str] = rest.client.get("/api/pipeline").json()["unreachable"]
            return found == ["kafka"]

        wait_until(unreachable, CHECK_SECONDS, "Kafka is unreachable")
        unknown = rest.client.get("/api/pipeline").json()
        assert (unknown["group"], unknown["lags"], unknown["flow"]["committed"]) == (None, None, None)
        assert unknown["counts"] == known["counts"]


def test_a_worker_that_has_stopped_is_forgotten_and_one_that_runs_is_not(rest: Rest, engine: sa.Engine) -> None:
    now = datetime.now(UTC)
    kinds = {"runs": EventKind.HEARTBEAT, "silent": EventKind.HEARTBEAT, "stopped": EventKind.STOPPED}
    ages = {"silent": timedelta(minutes=11)}
    with engine.begin() as connection:
        for number, (name, kind) in enumerate(kinds.items()):
            event = WorkerEvent(kind=kind, worker_id=name, timestamp=now - ages.get(name, timedelta()))
            store_events(connection, [ReceivedEvent(0, number, event)])
    answers = [rest.client.delete(f"/api/workers/{name}").status_code for name in (*kinds, "silent")]
    assert answers == [409, 204, 204, 404]
    assert [one["id"] for one in rest.client.get("/api/workers").json()["items"]] == ["runs"]
    with engine.connect() as connection:
        events = connection.execute(sa.text("SELECT count(*) FROM worker_events")).scalar_one()
        audit = connection.execute(sa.select(Operation.action, Operation.detail).order_by(Operation.id)).all()
    assert events == len(kinds)
    forget = [("workers.forget", {"workers": [name]}) for name in ("silent", "stopped")]
    assert [tuple(row) for row in audit] == forget


def test_the_pipeline_is_cut_at_the_limit_and_marked_as_truncated(rest: Rest, engine: sa.Engine) -> None:
    with engine.connect() as connection:
        whole = overview(connection, "g")
    parts = [PartitionLag(number, 0, 0, 0, 0) for number in range(5)]
    full = msgspec.structs.replace(whole, lags=Lags(whole.as_of, 0.0, parts))
    assert (full.cut(5).truncated, full.cut(4).truncated) == (False, True)
    assert full.cut(4).lags == Lags(whole.as_of, 0.0, parts[:4])
    assert rest.client.get("/api/pipeline", params={"limit": 1}).json()["truncated"] is False


def test_healthz_supports_head(rest: Rest) -> None:
    answer = rest.client.head("/healthz")
    assert (answer.status_code, answer.content) == (200, b"")
