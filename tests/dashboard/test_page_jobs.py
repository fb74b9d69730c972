"""Handlers and queues on the pages: the dialog of a new job, the file's page, Pipeline, Workers and Performance."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File, LagSample
from filemill.adapters.postgres.worker_events import store_events
from filemill.config.settings import Settings
from filemill.domain.files import NewFile, checkpoint_key
from filemill.domain.worker_events import EventKind, QueueVitals, Vitals, WorkerEvent
from filemill.entrypoints import bootstrap
from filemill.ports import ReceivedEvent
from tests.dashboard.conftest import OpenPage, Page
from tests.integration import topics
from tests.integration.announcements import INVOICE, announce

PARAMETERS = {"number": "AB-7", "lines": [{"text": "Work <b>", "price": 1}]}
# In the future, so that the worker does not count as dead before a busy machine has drawn the page.
LIVE_AGO = -60.0


@pytest.fixture(autouse=True)
def announced(engine: sa.Engine) -> None:
    announce(engine, INVOICE, seconds_ago=LIVE_AGO)


def insert(engine: sa.Engine, *files: NewFile) -> list[int]:
    with engine.begin() as connection:
        return insert_many(connection, files)


def invoice(queue: str = "jobs") -> NewFile:
    return NewFile("Invoice", "", "invoice", json.dumps(PARAMETERS), queue=queue)


def facts_of(page: Page, key: str) -> dict[str, Any]:
    return {line["name"]: line["value"] for line in page.shown("facts", key)["facts"]}


def update(engine: sa.Engine, ids: list[int], **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(File).where(File.id.in_(ids)).values(**values))


def test_pipeline_shows_the_backlog_of_each_queue(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    insert(engine, *[NewFile("urgent", queue="urgent")] * 2, NewFile("plain"))
    rows = {row["key"]: row["cells"] for row in open_page(settings, "pipeline").shown("grid", "queues")["rows"]}
    assert list(rows) == ["default", "jobs", "urgent", "bulk"]
    assert {name: cells["outbox"] for name, cells in rows.items()} == {"default": 1, "jobs": 0, "urgent": 2, "bulk": 0}
    assert rows["urgent"]["topic"] == settings.all_queues["urgent"].topic
    assert rows["urgent"]["backlog"] is None, "it was not sampled, so it is unknown"


def test_workers_shows_handlers_and_flags_a_mix_of_versions(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    page = open_page(settings, "workers")
    rows = {row["key"]: row["cells"] for row in page.shown("grid", "handlers")["rows"]}
    assert (rows["invoice"]["versions"], rows["invoice"]["workers"], rows["invoice"]["most"]) == (["2"], 1, 2)
    assert page.notices("handler-mix") == []
    older = msgspec.structs.replace(INVOICE, version="1")
    announce(engine, older, worker="worker-0", seconds_ago=LIVE_AGO + 30)
    (notice,) = open_page(settings, "workers").notices("handler-mix")
    assert "invoice" in notice["title"]
    assert "2 (1 worker), 1 (1 worker)" in notice["text"]


def test_a_files_page_shows_parameters_progress_and_limits(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    (file_id,) = insert(engine, invoice())
    update(engine, [file_id], status="processing", fraction=0.4, message="page 3 of <b>8</b>", started_at=sa.func.now())
    page = open_page(settings, "file", id=str(file_id))
    facts = facts_of(page, "job-facts")
    assert (facts["Handler"], facts["Queue"], facts["Progress"]) == ("invoice", "jobs", "page 3 of <b>8</b>")
    assert (facts["Limit: deadline"], facts["Limit: at once in a processor"]) == ("120 s", "2")
    assert json.loads(page.shown("preview", "parameters")["text"]) == PARAMETERS
    (plain,) = insert(engine, NewFile("A text"))
    with pytest.raises(AssertionError, match="no facts 'job-facts'"):
        facts_of(open_page(settings, "file", id=str(plain)), "job-facts")


def test_a_files_page_shows_what_each_attempt_printed_and_used(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    (file_id,) = insert(engine, invoice())
    page = open_page(settings, "file", id=str(file_id))
    assert page.shown("grid", "attempts")["rows"] == []
    assert facts_of(page, "job-facts")["Checkpoint"] == "none yet"
    now = datetime.now(UTC)
    base = WorkerEvent(
        kind=EventKind.ATTEMPTED, worker_id="w-1", timestamp=now, file_id=file_id, run=1, attempt=1, cpu_seconds=1.5
    )
    killed = msgspec.structs.replace(
        base,
        timestamp=now - timedelta(seconds=5),
        peak_bytes=7 * 2**20,
        code="deadline_exceeded",
        error="AttemptFailed: late \x1b[2J",
        log="\x1b[31mred\x1b[0m <script>alert(1)</script> \u202e\n\ttab",
    )
    done = msgspec.structs.replace(base, attempt=2, peak_bytes=0, cpu_seconds=0.0)
    with engine.begin() as connection:
        store_events(connection, [ReceivedEvent(2, 100, killed), ReceivedEvent(2, 101, done)])
    key = checkpoint_key(file_id, created_at(engine, file_id), 1)
    bootstrap.s3_client(settings).put_object(Bucket=settings.s3_bucket, Key=key, Body=b"step 3")
    page = open_page(settings, "file", id=str(file_id))
    newest, oldest = page.shown("grid", "attempts")["rows"]
    assert (newest["cells"]["attempt"], newest["cells"]["outcome"]) == (2, ["result", "good"])
    assert (newest["cells"]["cpu"], newest["cells"]["peak"]) == (None, None), "they were not measured"
    assert (oldest["cells"]["cpu"], oldest["cells"]["peak"]) == (1.5, 7 * 2**20)
    assert (oldest["cells"]["outcome"], oldest["titles"]["outcome"]) == (
        ["deadline_exceeded", "bad"],
        "AttemptFailed: late \\x1b[2J",
    )
    assert page.shown("preview", "attempt-log")["text"] is None
    assert page.shown("preview", "attempt-log")["message"] == "It printed nothing."
    page.app.selectbox(key=f"attempt-{file_id}").set_value(oldest["key"])
    text = page.run().shown("preview", "attempt-log")["text"]
    assert text == "\\x1b[31mred\\x1b[0m <script>alert(1)</script> \\u202e\n\ttab"
    checkpoint = facts_of(page, "job-facts")["Checkpoint"]
    assert checkpoint.startswith("6 bytes, stored 20")
    update(engine, [file_id], status="completed", s3_location="x")
    bootstrap.s3_client(settings).delete_object(Bucket=settings.s3_bucket, Key=key)
    assert "Checkpoint" not in facts_of(open_page(settings, "file", id=str(file_id)), "job-facts")


def created_at(engine: sa.Engine, file_id: int) -> datetime:
    with engine.connect() as connection:
        return connection.execute(sa.select(File.created_at).where(File.id == file_id)).scalar_one()


def test_files_are_filtered_by_queue(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    urgent, _, plain = insert(engine, NewFile("u", queue="urgent"), NewFile("b", queue="bulk"), NewFile("p"))
    for queue, expected in (("urgent", urgent), ("default", plain)):
        assert [row["id"] for row in open_page(settings, queue=queue).rows()] == [expected]
        tiles = {
            tile["value"]: tile["count"]
            for tile in open_page(settings, queue=queue).shown("filter_tiles", "tiles")["tiles"]
        }
        assert (tiles[""], tiles["pending"]) == (1, 1)
    assert len(open_page(settings).rows()) == 3


def test_dead_letters_are_filtered_by_the_queue_of_their_record(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    for queue in ("default", "jobs"):
        headers = [("filemill-topic", settings.all_queues[queue].topic.encode()), ("filemill-reason", queue.encode())]
        headers += [("filemill-partition", b"0"), ("filemill-offset", b"1")]
        topics.publish(settings, settings.topic_dead_letters, [b"{}"], partition=0, headers=headers)
    for queue in ("default", "jobs"):
        rows = open_page(settings, "letters", queue=queue).shown("grid", "letters")["rows"]
        assert [row["cells"]["reason"] for row in rows] == [queue]
    assert len(open_page(settings, "letters").shown("grid", "letters")["rows"]) == 2
    assert open_page(settings, "letters", queue="bulk").shown("bars", "reasons")["empty"] == "No matching dead letters."


def test_the_charts_of_pipeline_show_the_selected_queue(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    now = datetime.now(UTC)
    vitals = Vitals(queues=[QueueVitals(queue="jobs", owned=[2], epoch=4)])
    events = [
        WorkerEvent(
            kind=EventKind.ASSIGNED, worker_id="worker-1", timestamp=now - timedelta(seconds=9), partitions=[0]
        ),
        WorkerEvent(
            kind=EventKind.ASSIGNED,
            worker_id="worker-1",
            timestamp=now - timedelta(seconds=8),
            partitions=[1, 2],
            owned=[1, 2],
            queue="jobs",
        ),
        WorkerEvent(
            kind=EventKind.HEARTBEAT, worker_id="worker-1", timestamp=now, owned=[0], partitions=[], vitals=vitals
        ),
    ]
    with engine.begin() as connection:
        store_events(connection, [ReceivedEvent(2, 200 + place, event) for place, event in enumerate(events)])
        for queue, lag in (("default", 3), ("jobs", 70)):
            sample = {"group_id": settings.of_queue(queue).group_id, "sampled_at": now, "partition": 1}
            connection.execute(
                sa.insert(LagSample).values(
                    **sample, begin_offset=0, end_offset=100, committed_offset=100 - lag, lag=lag
                )
            )
    shown = {}
    for queue in ("default", "jobs"):
        page = open_page(settings, "pipeline", queue=queue)
        (trace,) = page.shown("chart", "lag")["figure"]["data"]
        rows = page.shown("grid", "moves")["rows"]
        shown[queue] = trace["y"], {row["cells"]["partition"] for row in rows}
    assert shown == {"default": ([3], {"P0"}), "jobs": ([70], {"P1", "P2"})}


def test_performance_is_divided_by_handler_and_queue(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    ids = insert(engine, invoice("urgent"), NewFile("A text"))
    now = datetime.now(UTC)
    update(engine, ids, status="completed", started_at=now - timedelta(seconds=1), finished_at=now, worker_id="w")
    rows = open_page(settings, "performance").shown("grid", "by-job")["rows"]
    assert [(row["key"], row["cells"]["files"]) for row in rows] == [("invoice / urgent", 1), ("text / default", 1)]


def test_a_job_is_created_by_the_form_of_its_schema(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    page = open_page(settings, queue="bulk", q="other")
    page.press("New job …")
    page.run()
    page.app.text_input(key="job-title").set_value("Invoice 7")
    page.app.text_input(key="job-invoice-number").set_value("AB-7")
    page.press("Create job")
    page.run()
    (notice,) = page.notices("job-problem")
    assert "$.parameters.lines" in notice["text"], "the grid of lines is empty"
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(File)).scalar() == 0
    page.app.selectbox(key="job-handler").set_value("text")
    page.app.selectbox(key="job-queue").set_value("urgent")
    page.run()
    page.app.text_input(key="job-title").set_value("A text")
    page.press("Create job")
    page.run()
    with engine.connect() as connection:
        rows = connection.execute(sa.select(File.title, File.handler, File.queue, File.parameters)).all()
    assert rows == [("A text", "text", "urgent", None)]
    assert [row["title"] for row in page.run().rows()] == ["A text"]
