"""The Files page."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.connection import in_transaction
from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File
from filemill.config.settings import Settings
from filemill.domain.cursors import NEWER_FILES, OLDER_FILES
from filemill.domain.files import new_file
from filemill.errors import Unavailable
from filemill.queries.files import get_file
from filemill.services import submissions
from tests.dashboard.conftest import OpenPage, Page, closed_port

HOSTILE = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "=1+1",
    "$x^2$",
    ":red[x] :material/delete:",
    "📄 🇩🇪 emoji",
    "שלום עולם",
    "**bold** _it_ `code`",
    "a\u202ereversed",
]


def accept(engine: sa.Engine, titles: Sequence[str]) -> list[int]:
    with engine.begin() as connection:
        return insert_many(connection, [new_file(title, f"about {title}") for title in titles])


def change(engine: sa.Engine, file_id: int, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(File).where(File.id == file_id).values(**values))


def create(page: Page, title: str, description: str = "") -> None:
    page.app.text_input(key="new_title").input(title)
    page.app.text_area(key="new_description").input(description)
    page.press("Create file")
    page.run()


def test_an_empty_list_shows_what_to_do(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings)
    assert page.rows() == []
    empty = page.shown("file_table", "files")["empty"]
    assert empty["title"] == "No files yet"
    assert "click Create file" in empty["hint"]
    assert page.notices() == []
    assert {tile["count"] for tile in page.shown("filter_tiles", "tiles")["tiles"]} == {0}


def test_a_created_file_is_listed_at_once(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    page = open_page(settings, status="failed", q="something else")
    create(page, "Quarterly report", "line 1\nline 2")

    (outcome,) = page.notices("outcome")
    (row,) = page.rows()
    assert outcome["tone"] == "good"
    assert outcome["title"] == f"File #{row['id']} created"
    assert outcome["text"] == "Quarterly report"
    assert (row["title"], row["status"], row["highlighted"]) == ("Quarterly report", "pending", True)
    assert page.app.text_input(key="new_title").value == ""
    assert page.app.query_params == {}
    with engine.connect() as connection:
        file = get_file(connection, row["id"])
        assert file is not None
        assert file.description == "line 1\nline 2"
        assert connection.execute(sa.text("SELECT file_id FROM outbox")).scalars().all() == [row["id"]]


@pytest.mark.parametrize(
    ("title", "description", "expected"),
    [
        ("  ", "", "Title must not be blank"),
        ("x" * 256, "", "Title must have at most 255 characters, not 256"),
        ("a\tb", "", "Title must not contain control characters (a tab or a line break is one)"),
        ("fine", "ü" * 32_769, "Description must have at most 65536 bytes of UTF-8, not 65538"),
        ("fine", "a\0b", "Description must not contain a NUL character"),
    ],
)
def test_the_form_names_the_invalid_field_and_keeps_the_input(
    title: str, description: str, expected: str, settings: Settings, open_page: OpenPage
) -> None:
    page = open_page(settings)
    create(page, title, description)
    (outcome,) = page.notices("outcome")
    assert (outcome["tone"], outcome["title"]) == ("bad", expected)
    assert page.app.text_input(key="new_title").value == title
    assert page.rows() == []


def test_hostile_titles_are_passed_unchanged(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    ids = accept(engine, HOSTILE)
    page = open_page(settings, file=str(ids[0]))
    assert [row["title"] for row in page.rows()] == HOSTILE[::-1]
    facts = {fact["name"]: fact["value"] for fact in page.shown("facts", "details")["facts"]}
    assert facts["Title"] == HOSTILE[0]
    # No title becomes Streamlit's Markdown or HTML.
    written = [element.proto.body for kind in ("markdown", "html") for element in page.app.get(kind)]
    assert not any(title in text for title in HOSTILE for text in written)


def test_progress_worker_error_and_download_are_shown(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    done, failed, busy, gone, waits = accept(engine, ["done", "failed", "busy", "gone", "waits"])
    now = sa.func.now()
    change(engine, done, status="completed", s3_location="file-1-2.txt", size=120, worker_id="w-1", finished_at=now)
    change(engine, failed, status="failed", error="no template\nno luck", finished_at=now)
    change(engine, busy, status="processing", step=3, steps=6, worker_id="w-2", attempt=2)
    change(engine, gone, status="cancelled")

    page = open_page(settings)
    rows = {row["id"]: row for row in page.rows()}
    assert rows[done]["download"] == f"/api/files/{done}/download"
    assert (rows[done]["note"], rows[done]["size"]) == ("w-1", 120)
    assert (rows[failed]["note"], rows[failed]["failed"]) == ("no template\nno luck", True)
    assert (rows[busy]["step"], rows[busy]["steps"]) == (3, 6)
    assert rows[busy]["note"] == "3 of 6 · w-2 · attempt 2"
    assert [rows[number]["download"] for number in (failed, busy, gone, waits)] == [None] * 4
    tiles = {tile["value"]: tile["count"] for tile in page.shown("filter_tiles", "tiles")["tiles"]}
    assert tiles == {"": 5, "pending": 1, "processing": 1, "completed": 1, "failed": 1, "cancelled": 1}


def test_the_url_holds_the_view(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    ids = accept(engine, [f"{'odd' if number % 2 else 'even'} {number}" for number in range(1, 121)])
    change(engine, ids[10], status="failed", error="bad luck")

    assert [row["id"] for row in open_page(settings, status="failed").rows()] == [ids[10]]
    page = open_page(settings, q="odd")
    assert page.app.text_input(key="q").value == "odd"
    assert [row["id"] for row in page.rows()] == [number for number in reversed(ids) if number % 2][:50]
    page = open_page(settings, cursor=f"before-{ids[100]}")
    assert [row["id"] for row in page.rows()] == ids[99:49:-1]
    table = page.shown("file_table", "files")
    beside = OLDER_FILES.encode(ids[50]), NEWER_FILES.encode(ids[99])
    assert (table["next"], table["previous"]) == beside


def test_an_invalid_view_shows_the_newest_files(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    (file_id,) = accept(engine, ["only one"])
    page = open_page(settings, status="no-such-status", cursor="rubbish", file="x", refresh="7 s")
    assert [row["id"] for row in page.rows()] == [file_id]
    assert page.app.query_params.get("cursor") is None


def test_the_details_show_all_values(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    (file_id,) = accept(engine, ["all of it"])
    change(
        engine, file_id, status="completed", s3_location="file-9-9.txt", size=1234, sha256="ab" * 32, worker_id="w-1",
        kafka_partition=2, kafka_offset=77, attempt=3, started_at=sa.func.now(), finished_at=sa.func.now(),
    )  # fmt: skip
    page = open_page(settings, file=str(file_id))
    shown = page.shown("facts", "details")
    facts = {fact["name"]: fact["value"] for fact in shown["facts"]}
    assert facts["S3 key"] == "file-9-9.txt"
    assert facts["SHA-256"] == "ab" * 32
    assert facts["Partition / offset"] == "2 / 77"
    assert facts["Run / attempt"] == "1 / 3"
    assert facts["Size"] == "1,234 bytes"
    assert facts["Description"] == "about all of it"
    assert shown["download"] == f"/api/files/{file_id}/download"


def test_the_details_of_an_unknown_file_show_a_notice(settings: Settings, open_page: OpenPage) -> None:
    (notice,) = open_page(settings, file="12345").notices("details-none")
    assert notice["title"] == "File #12345 does not exist"


def test_the_page_works_and_shows_a_banner_while_postgres_is_unreachable(
    settings: Settings, open_page: OpenPage
) -> None:
    unreachable = settings.model_copy(update={"database_port": closed_port()})
    page = open_page(unreachable)
    (notice,) = page.notices()
    assert notice["title"] == "PostgreSQL is unreachable"
    assert f":{unreachable.database_port}/" in notice["text"]
    assert "check FILEMILL_DATABASE_HOST" in notice["text"]
    assert page.shown("file_table", "files")["empty"]["title"] == "No data yet"
    assert {tile["count"] for tile in page.shown("filter_tiles", "tiles")["tiles"]} == {None}

    create(page, "cannot be accepted now")
    (outcome,) = page.notices("outcome")
    assert outcome["title"] == "The database did not respond"
    assert page.app.text_input(key="new_title").value == "cannot be accepted now"


def test_resubmitting_the_form_after_a_lost_response_creates_one_file(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(settings)
    commit = in_transaction

    def then_breaks(engine: sa.Engine, work: Callable[[sa.Connection], Any]) -> Any:
        commit(engine, work)
        raise Unavailable("the connection to PostgreSQL was cut")

    monkeypatch.setattr(submissions, "in_transaction", then_breaks)
    create(page, "once")
    (outcome,) = page.notices("outcome")
    assert "may have been created" in outcome["text"]
    monkeypatch.setattr(submissions, "in_transaction", commit)
    page.press("Create file")
    page.run()
    (outcome,) = page.notices("outcome")
    assert outcome["tone"] == "good"
    create(page, "once")
    assert [row["title"] for row in page.rows()] == ["once", "once"], "the second is another filling of the form"


def test_the_url_can_sort_the_oldest_first(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    ids = accept(engine, [f"file {number}" for number in range(60)])
    page = open_page(settings, sort="oldest")
    assert [row["id"] for row in page.rows()] == ids[:50]
    table = page.shown("file_table", "files")
    assert (table["next"], table["previous"], table["oldest_first"]) == (NEWER_FILES.encode(ids[49]), None, True)
    page = open_page(settings, sort="oldest", cursor=table["next"])
    assert [row["id"] for row in page.rows()] == ids[50:]
    assert page.shown("file_table", "files")["previous"] == OLDER_FILES.encode(ids[50])


@pytest.mark.parametrize(
    ("field", "value", "label"),
    [("kafka_broker", "127.0.0.1:{port}", "Kafka"), ("s3_endpoint", "http://127.0.0.1:{port}", "S3")],
)
def test_requests_are_accepted_while_kafka_or_s3_is_unreachable(
    field: str, value: str, label: str, settings: Settings, open_page: OpenPage
) -> None:
    where = value.format(port=closed_port())
    page = open_page(settings.model_copy(update={field: where, "server_timeout_seconds": 1.0}))
    create(page, "accepted all the same")
    assert [row["title"] for row in page.rows()] == ["accepted all the same"]
    page.until_noticed()
    (notice,) = page.notices()
    assert notice["title"] == f"{label} is unreachable"
    assert where in notice["text"]
    assert "Requests are still accepted" in notice["text"]


def counts_of(page: Page) -> dict[str, int]:
    return {tile["label"]: tile["count"] for tile in page.shown("filter_tiles", "tiles")["tiles"]}


def test_the_tiles_count_what_the_search_finds(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    report, _, other = accept(engine, ["A report", "Another report", "Something"])
    change(engine, report, status="failed")
    change(engine, other, status="failed")
    page = open_page(settings, q="report")
    counts = counts_of(page)
    assert (counts["All matching"], counts["Failed"], counts["Pending"]) == (2, 1, 1)
    page.app.text_input(key="q").input("")
    counts = counts_of(page.run())
    assert (counts["All files"], counts["Failed"]) == (3, 2)


def test_a_refresh_with_the_url_from_before_a_search_keeps_the_search(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    accept(engine, ["A report", "Something"])
    page = open_page(settings)
    page.app.text_input(key="q").input("report")
    page.run()
    del page.app.query_params["q"]  # the browser has not received the new URL
    page.run()
    assert (page.app.text_input(key="q").value, page.app.query_params["q"]) == ("report", "report")
    assert [row["title"] for row in page.rows()] == ["A report"]


def test_back_restores_the_search_of_the_url(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    accept(engine, ["A report", "Something"])
    page = open_page(settings)
    page.app.text_input(key="q").input("report")
    page.run()
    assert ([row["title"] for row in page.rows()], page.app.query_params["q"]) == (["A report"], "report")
    page.run()  # with the new URL: the browser has received it
    del page.app.query_params["q"]  # as the browser's Back does
    page.run()
    assert (page.app.text_input(key="q").value, len(page.rows())) == ("", 2)
    page.app.query_params["q"] = "some"  # and Forward
    page.run()
    assert [row["title"] for row in page.rows()] == ["Something"]
    assert counts_of(page)["All matching"] == 1
