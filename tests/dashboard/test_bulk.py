"""Background jobs on many files, the bulk actions of the list, and exports."""

import csv
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File, Operation, OutboxRow
from filemill.config.settings import Settings
from filemill.domain.files import NewFile, new_file
from filemill.domain.permissions import Principal
from filemill.errors import Unavailable
from filemill_dashboard.state import deletions, page_data
from filemill_dashboard.state.jobs import Job, JobRunning, Jobs, JobView
from tests.dashboard.conftest import OpenPage
from tests.integration.rest import Rest, serving

WAIT_SECONDS = 30


def wait_for(jobs: Jobs) -> JobView:
    """The job once it has ended."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (view := jobs.view()) is None or view.running:
        assert time.monotonic() < deadline, view
        threading.Event().wait(0.02)
    return view


def insert(engine: sa.Engine, *titles: str) -> list[int]:
    with engine.begin() as connection:
        return insert_many(connection, [new_file(title) for title in titles])


def statuses(engine: sa.Engine) -> dict[int, str]:
    with engine.connect() as connection:
        return {row.id: row.status for row in connection.execute(sa.select(File.id, File.status))}


def test_only_one_job_runs_and_it_can_be_stopped() -> None:
    jobs, begun = Jobs(), threading.Event()

    def endless(job: Job) -> None:
        while True:
            job.advance(1)
            begun.set()
            job.wait(0.001)

    jobs.start("Endless", None, endless)
    begun.wait(WAIT_SECONDS)
    with pytest.raises(JobRunning, match="Endless"):
        jobs.start("Another", 1, lambda _job: None)
    jobs.stop()
    view = wait_for(jobs)
    assert (view.error, view.done > 0) == ("stopped", True)
    jobs.stop()
    assert jobs.view() is None


def test_a_job_retries_a_batch_while_a_server_is_unreachable() -> None:
    jobs, tries = Jobs(), iter([Unavailable("gone"), None])

    def batch() -> None:
        if error := next(tries):
            raise error

    def work(job: Job) -> None:
        job.run_batch(batch)
        job.advance(5, refused=2)

    jobs.start("Patient", 7, work)
    view = wait_for(jobs)
    assert (view.done, view.refused, view.error) == (5, 2, None)


def test_an_exception_in_a_job_is_shown_without_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_job: Job) -> None:
        raise ZeroDivisionError("secret")

    jobs = Jobs()
    jobs.start("Broken", 1, broken)
    assert wait_for(jobs).error == "internal error: see the dashboard's log"


def test_the_form_creates_many_numbered_files(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    page = open_page(settings)
    page.app.text_input(key="new_title").input("Load")
    page.app.number_input(key="new_count").set_value(1203)
    page.press("Create file")
    page.run()
    assert wait_for(page_data.current().jobs).done == 1203
    assert page.run().shown("job_progress", "job")["name"] == "Create 1,203 files"
    assert page.app.number_input(key="new_count").value == 1
    with engine.connect() as connection:
        titles = set(connection.execute(sa.select(File.title)).scalars())
    assert titles == {f"Load {number}" for number in range(1, 1204)}


def test_the_form_creates_no_file_twice_if_the_answer_to_a_commit_is_lost(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(settings)
    submissions = page_data.current().services.submissions
    submit, answers = submissions.submit_many_once, iter([True, False, True, True])

    def losing(files: Sequence[NewFile], key: str, *, principal: Principal) -> list[int]:
        ids = submit(files, key, principal=principal)
        if not next(answers):
            raise Unavailable("the connection was lost")
        return ids

    monkeypatch.setattr(submissions, "submit_many_once", losing)
    page.app.text_input(key="new_title").input("Load")
    page.app.number_input(key="new_count").set_value(1203)
    page.press("Create file")
    page.run()
    view = wait_for(page_data.current().jobs)
    assert (view.done, view.error) == (1203, None)
    with engine.connect() as connection:
        titles = connection.execute(sa.select(File.title)).scalars().all()
    assert sorted(titles) == sorted(f"Load {number}" for number in range(1, 1204))


def test_a_bulk_action_is_confirmed_with_the_count_and_applied_to_all_that_matched(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    ids = insert(engine, "Report 1", "Report 2", "Note", "Report 3")
    with engine.begin() as connection:
        connection.execute(sa.update(File).where(File.id == ids[1]).values(status="completed"))
    page = open_page(settings, q="report")
    page.app.button(key="bulk-cancel").click()
    page.run()
    go = page.app.button(key="bulk-go")
    assert go.label == "Cancel 2 files"
    late = insert(engine, "Report that came later")
    go.click()
    page.run()
    view = wait_for(page_data.current().jobs)
    assert (view.done, view.refused, view.error) == (2, 0, None)
    assert statuses(engine) == {
        ids[0]: "cancelled", ids[1]: "completed", ids[2]: "pending", ids[3]: "cancelled", late[0]: "pending",
    }  # fmt: skip
    with engine.connect() as connection:
        assert connection.execute(sa.select(Operation.actor, Operation.action)).all() == [("page", "cancel")]


def test_an_action_that_no_listed_file_allows_is_disabled(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings, status="completed")
    can = {name: not page.app.button(key=f"bulk-{name}").disabled for name in ("retry", "cancel", "delete")}
    assert can == {"retry": False, "cancel": False, "delete": True}
    page.app.button(key="bulk-delete").click()
    assert page.run().app.button(key="danger-bulk-go").disabled  # there is none
    page.app.button(key="bulk-cancel-dialog").click()
    page.run()
    assert "danger-bulk-go" not in {button.key for button in page.app.button}


def test_a_deletion_quotes_its_filter_and_names_the_count_and_the_first_files(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions, "UNDO_SECONDS", 0.0)
    ids = insert(engine, *(f"Old *report* {number}" for number in range(8)), "Another")
    with engine.begin() as connection:
        connection.execute(sa.delete(OutboxRow))
        connection.execute(sa.update(File).values(status="completed"))
    page = open_page(settings, q="old *rep")
    page.app.button(key="bulk-delete").click()
    page.run()
    facts = [(fact["name"], fact["value"]) for fact in page.shown("facts", "bulk-matching")["facts"]]
    assert facts == [
        ("Status", "completed, failed, cancelled"),
        ("Title contains", "“old *rep”"),
        ("Files", "\n".join([*(f"#{ids[n]} Old *report* {n}" for n in (7, 6, 5, 4, 3)), "… and 3 more"])),
    ]
    go = page.app.button(key="danger-bulk-go")
    assert go.label == "Delete 8 files"
    go.click()
    page.run()
    assert wait_for(page_data.current().jobs).done == 8
    assert list(statuses(engine)) == [ids[8]]


def test_a_bulk_action_and_an_export_keep_to_the_filter_by_queue(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, rest: Rest
) -> None:
    with engine.begin() as connection:
        urgent, bulk, plain = insert_many(
            connection, [NewFile("u", queue="urgent"), NewFile("b", queue="bulk"), NewFile("p")]
        )
    page = open_page(settings, queue="bulk")
    page.app.button(key="bulk-cancel").click()
    page.run()
    facts = {fact["name"]: fact["value"] for fact in page.shown("facts", "bulk-matching")["facts"]}
    assert (facts["Queue"], facts["Files"]) == ("bulk", f"#{bulk} b")
    page.app.button(key="bulk-go").click()
    page.run()
    assert wait_for(page_data.current().jobs).done == 1
    assert statuses(engine) == {urgent: "pending", bulk: "cancelled", plain: "pending"}
    for queue, ids in (("bulk", [bulk]), ("default", [plain]), ("no\0queue", [])):
        answer = rest.client.get("/api/files/export", params={"format": "ndjson", "queue": queue})
        assert [json.loads(line)["id"] for line in answer.text.splitlines()] == ids


@pytest.fixture
def rest(settings: Settings) -> Iterator[Rest]:
    with serving(settings) as rest:
        yield rest


TITLES = ["=1+1", "@SUM(A1)", "-2", "+3", 'quote " comma, <b>', "plain", "=hidden among", *("more" for _ in range(300))]


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_an_export_has_all_matching_files_and_no_formulas(form: str, rest: Rest, engine: sa.Engine) -> None:
    ids = insert(engine, *TITLES)
    answer = rest.client.get("/api/files/export", params={"format": form, "status": "pending"})
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="files.{form}"'
    read: Callable[[str], list[dict[str, str]]] = {
        "csv": lambda text: list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))),
        "ndjson": lambda text: [json.loads(line) for line in text.splitlines()],
    }[form]
    rows = read(answer.text)
    assert [int(row["id"]) for row in rows] == ids[::-1]
    titles = [row["title"] for row in rows][::-1]
    if form == "csv":
        assert titles[:5] == ["'=1+1", "'@SUM(A1)", "'-2", "'+3", 'quote " comma, <b>']
    else:
        assert titles == TITLES
    found = rest.client.get("/api/files/export", params={"format": form, "search": "PLAIN"})
    assert [row["title"] for row in read(found.text)] == ["plain"]
    assert rest.client.get("/api/files/export", params={"format": "xls"}).status_code == 422
