"""The page of one file."""

from typing import Any

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File, OutboxRow, Tombstone
from filemill.config.settings import Settings
from filemill.domain.files import new_file
from filemill.entrypoints import bootstrap
from filemill_dashboard.state import deletions, page_data
from filemill_dashboard.views.visibility import Visibility
from tests.dashboard.conftest import OpenPage, Page, closed_port
from tests.integration.processes import wait_until


def accept(engine: sa.Engine, title: str = "One file") -> int:
    with engine.begin() as connection:
        (file_id,) = insert_many(connection, [new_file(title, "about it")])
    return file_id


def change(engine: sa.Engine, file_id: int, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(sa.delete(OutboxRow).where(OutboxRow.file_id == file_id))
        connection.execute(sa.update(File).where(File.id == file_id).values(**values))


def disabled(page: Page) -> dict[str, Any]:
    return {name: page.app.button(key=f"action-{name}").disabled for name in ("retry", "cancel", "delete")}


def press(page: Page, name: str) -> dict[str, str]:
    page.app.button(key=f"action-{name}").click()
    (notice,) = page.run().notices("file-outcome")
    return notice


def test_a_completed_file_shows_its_states_and_its_content(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    file_id = accept(engine, "<b>title</b>")
    key = f"file-{file_id}-1.txt"
    bootstrap.s3_client(settings).put_object(Bucket=settings.s3_bucket, Key=key, Body="inhalt \xfc".encode("latin-1"))
    now = sa.func.now()
    change(
        engine,
        file_id,
        status="completed",
        s3_location=key,
        started_at=now,
        finished_at=now,
        updated_at=now,
        worker_id="w-1",
    )
    page = open_page(settings, "file", id=str(file_id))
    assert page.shown("file_header", "head")["title"] == "<b>title</b>"
    assert page.shown("file_header", "head")["download"] == f"/api/files/{file_id}/download"
    assert [node["current"] for node in page.shown("state_diagram", "state-diagram")["ends"]] == [True, False, False]
    assert [step["title"] for step in page.shown("timeline", "timeline")["steps"]] == [
        "Accepted",
        "Started by w-1",
        "Uploaded",
        "Recorded",
    ]
    (row,) = page.shown("grid", "deliveries")["rows"]
    assert (row["cells"]["worker"], row["cells"]["outcome"]) == ("w-1", ["completed", "good"])
    assert page.shown("preview", "preview")["text"] == "inhalt \\xfc"
    assert disabled(page) == {"retry": True, "cancel": True, "delete": False}
    assert page.notices("why") == []


def test_a_waiting_file_shows_the_reason_and_can_be_cancelled_and_retried(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    file_id = accept(engine)
    page = open_page(settings, "file", id=str(file_id))
    assert page.notices("why")[0]["title"] == "In the outbox, not published yet"
    assert "no content yet" in page.shown("preview", "preview")["message"]
    assert disabled(page) == {"retry": True, "cancel": False, "delete": True}

    assert press(page, "cancel")["title"] == "Cancelled"
    assert page.notices("why") == []
    assert press(page, "retry")["title"] == "Retried"
    assert page.shown("state_diagram", "state-diagram")["retry_label"] == "run 2"
    assert "Retried as a new run" in [step["title"] for step in page.shown("timeline", "timeline")["steps"]]


def test_a_deletion_can_be_undone(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    file_id = accept(engine)
    change(engine, file_id, status="failed", error="no luck")
    page = open_page(settings, "file", id=str(file_id))
    assert press(page, "delete")["title"] == "1 file will be deleted in 10 s"
    bar = page.shown("job_progress", "deletions")
    assert (bar["name"], bar["button"]) == (f"Deleting 1 file: #{file_id}", "Undo")
    assert disabled(page)["delete"]
    assert page_data.current().deletions.undo() == 1
    assert page.run().shown("job_progress", "deletions") == {"name": None}
    assert not disabled(page)["delete"]
    with engine.connect() as connection:
        assert connection.execute(sa.select(File.id)).scalars().all() == [file_id]
        assert connection.execute(sa.select(Tombstone.file_id)).scalars().all() == []


def test_a_deleted_file_shows_when_it_was_deleted(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions, "UNDO_SECONDS", 0.0)
    file_id = accept(engine)
    change(engine, file_id, status="failed", error="no luck")
    page = open_page(settings, "file", id=str(file_id))
    page.app.button(key="action-delete").click()
    page.run()
    done = wait_until(page_data.current().deletions.view, 20, "the deletion was carried out")
    assert done is not None
    assert (done.deleted, done.problem) == (1, "")
    (notice,) = page.run().notices("none")
    assert notice["title"] == f"File #{file_id} was deleted"
    assert notice["text"].startswith("“One file”. Deleted at ")
    assert " UTC by page" in notice["text"]
    with engine.connect() as connection:
        assert connection.execute(sa.select(Tombstone.file_id)).scalars().all() == [file_id]


@pytest.mark.parametrize("file_id", ["", "x", "-1", "99", "9" * 30])
def test_an_unknown_file_shows_a_notice(file_id: str, settings: Settings, open_page: OpenPage) -> None:
    (notice,) = open_page(settings, "file", id=file_id).notices("none")
    assert notice["title"] in {"No file selected", "File #99 does not exist"}


def test_the_page_works_while_postgres_is_unreachable(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings.model_copy(update={"database_port": closed_port()}), "file", id="1")
    assert page.notices("none")[0]["title"] == "File #1: no data yet"
    assert page.notices()[0]["title"] == "PostgreSQL is unreachable"


def test_no_action_is_offered_while_postgres_is_unreachable(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = accept(engine)
    change(engine, file_id, status="failed", error="no luck")
    page = open_page(settings, "file", id=str(file_id))
    assert disabled(page) == {"retry": False, "cancel": True, "delete": False}
    visibility = Visibility(frozenset({"postgres"}))
    monkeypatch.setattr(page_data.current(), "visibility", lambda: visibility)
    assert disabled(page.run()) == {"retry": True, "cancel": True, "delete": True}
