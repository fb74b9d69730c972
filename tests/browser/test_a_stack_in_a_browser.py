"""Operations on a stack from its page: kill a worker, inject a fault, replay dead letters."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Locator, Page, expect

from filemill.adapters.postgres.tables import File
from filemill.config.settings import Settings, load
from filemill.domain.files import truncate_to_milliseconds
from filemill.runtime.journal import read_entries
from filemill.runtime.stack_state import FAULTS_FILE
from tests.acceptance.command import Stack, create, stack_in, wait_for_file
from tests.integration import topics
from tests.integration.processes import wait_until
from tests.runs import planted
from tests.servers import patient_engine

SETTLED_MILLISECONDS = 60_000
FAULT_SECONDS = 3
BARS = """() => [...document.querySelectorAll('.js-plotly-plot')]
  .filter((plot) => plot.layout?.shapes?.some((shape) => shape.type === 'rect')).length"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch) -> Iterator[Stack]:
    """`filemill up`, with lab runs in its results folder."""
    folder = tmp_path_factory.mktemp("broken")
    for name in ("baseline", "variant"):
        planted(folder / "results", name)
    monkeypatch_module.setenv("FILEMILL_RESULTS", str(folder / "results"))
    with stack_in(folder / "home", "--processing-seconds", "0.2") as stack:
        yield stack


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture
def settings(stack: Stack) -> Settings:
    return load(home=stack.home)


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A page of the stack's dashboard. The test fails if a script of the page raises an error."""
    context = browser.new_context(base_url=stack.page, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def row_of(page: Page, table: str, text: str) -> Locator:
    return page.get_by_role("table", name=table, exact=True).get_by_role("row").filter(has_text=text)


def test_a_worker_killed_from_its_page_appears_in_the_reassignments(page: Page, stack: Stack) -> None:
    wait_for_file(stack.page, create(stack.page, "before")["id"])
    page.goto("/pipeline")
    # At the start, no partition had a previous owner.
    expect(row_of(page, "Partition reassignments", "none →").first).to_be_visible(timeout=SETTLED_MILLISECONDS)
    page.goto("/workers")
    row = row_of(page, "Workers", "processor-1")
    row.get_by_role("button", name="Kill").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    row.get_by_role("button", name="Kill").click()
    dialog.get_by_role("button", name="Kill processor-1").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("processor-1 was killed and will be restarted")).to_be_visible()
    page.goto("/pipeline")
    moved = row_of(page, "Partition reassignments", "processor-1 →")
    expect(moved.first).to_be_visible(timeout=SETTLED_MILLISECONDS)
    expect(moved.first).to_contain_text("silent")
    expect(page.get_by_role("img", name="Partition owners over time")).to_be_visible()
    page.goto("/activity")
    expect(row_of(page, "Audit log", "stack.kill")).to_have_count(1)


def _place(table: Locator) -> tuple[float, float, float]:
    """Left, top and width of a table. Its height grows with its rows."""
    box = table.bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"]


def test_a_job_moves_no_row_and_a_menu_closes_with_its_action(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Title").fill("Many")
    page.get_by_label("Number of files").fill("400")
    before = _place(page.locator(".st-key-files"))
    page.get_by_role("button", name="Create file").click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    assert _place(page.locator(".st-key-files")) == before
    page.get_by_role("button", name="All matching").click()
    page.get_by_role("button", name="Cancel all matching …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Title contains")).to_be_visible()
    dialog.get_by_role("button", name=re.compile("^Cancel [0-9,]+ files?$")).click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("link", name="Export as CSV")).to_be_hidden()


def test_partitions_are_added_after_their_topic_was_typed(page: Page) -> None:
    page.goto("/pipeline")
    page.get_by_role("button", name="Add partitions …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("New number of partitions").fill("4")
    dialog.get_by_label("New number of partitions").press("Enter")
    go = dialog.get_by_role("button", name="Increase file.create from 3 to 4")
    expect(go).to_be_disabled()
    dialog.get_by_label("To confirm, type").press_sequentially("file.create")
    go.click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("P3", exact=True).first).to_be_visible(timeout=SETTLED_MILLISECONDS)


def test_an_injected_fault_is_a_bar_on_the_charts(page: Page, stack: Stack) -> None:
    page.goto("/experiments")
    page.get_by_text("Faults", exact=True).click()
    row_of(page, "Faults", "S3").filter(has_text="SIGSTOP").get_by_role("button", name="Inject").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Seconds").fill(str(FAULT_SECONDS))
    dialog.get_by_label("Seconds").press("Enter")
    dialog.get_by_role("button", name="Stop S3", exact=True).click()
    expect(dialog).to_have_count(0)
    expect(row_of(page, "Journal", "s3 stopped (SIGSTOP)")).to_have_count(1)
    expect(page.get_by_text("(active)")).to_have_count(0)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Journal").click()
    (line,) = Path(waiting.value.path()).read_text().splitlines()
    (entry,) = read_entries(stack.home / FAULTS_FILE)
    assert json.loads(line)["name"] == entry.name == "s3 stopped (SIGSTOP)"
    assert entry.ended is not None
    assert entry.ended - entry.began >= FAULT_SECONDS
    for path, charts in (("/pipeline", 3), ("/performance", 2)):
        page.goto(path)
        # Polled from the test: the Content-Security-Policy of the page forbids `wait_for_function`.
        wait_until(partial(_charts_with_bars, page, charts), 30, f"{charts} charts show the fault")
    page.goto("/activity")
    expect(row_of(page, "Audit log", f"s3 stopped for {FAULT_SECONDS} s")).to_have_count(1)


def _charts_with_bars(page: Page, expected: int) -> bool:
    return bool(page.evaluate(BARS) == expected)


def test_dead_letters_are_replayed(page: Page, stack: Stack, settings: Settings) -> None:
    engine = patient_engine(settings)
    rows = [
        {"title": f"dead letter {number}", "created_at": truncate_to_milliseconds(datetime.now(UTC))}
        for number in range(2)
    ]
    with engine.begin() as connection:
        ids = list(connection.execute(sa.insert(File).returning(File.id), rows).scalars())
    engine.dispose()
    # Requests that cannot be processed.
    blank = {"title": " ", "description": "", "timestamp": "2026-01-04T12:00:00Z"}
    values = [json.dumps({**blank, "fileId": file_id}).encode() for file_id in ids]
    topics.publish(settings, settings.topic_create, values)

    page.goto("/letters")
    letters = page.get_by_role("table", name="Dead letters")
    expect(letters.get_by_role("row")).to_have_count(3)  # one of them is the header
    page.get_by_role("button", name="Replay 2 …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("2 files would get a new run.")).to_be_visible()
    dialog.get_by_role("button", name="Replay 2 files").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("No unresolved dead letters")).to_be_visible()
    for file_id in ids:
        assert wait_for_file(stack.page, file_id)["run"] == 2


def test_an_overlay_of_two_runs_survives_a_reload(page: Page) -> None:
    page.goto("/experiments")
    page.get_by_role("button", name=re.compile("^variant-")).click()
    row_of(page, "Runs of the lab", "baseline-").get_by_role("button", name="Overlay").click()
    expect(page).to_have_url(re.compile(r"run=variant-.*with=baseline-"))
    legend = page.locator(".js-plotly-plot .legend")
    expect(legend).to_contain_text("A · variant-")
    expect(legend).to_contain_text("B · baseline-")
    page.reload()
    expect(legend).to_contain_text("B · baseline-")
    expect(row_of(page, "Invariants", "Every request ends")).to_contain_text("holds")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Open in a notebook").click()
    assert waiting.value.suggested_filename.endswith(".ipynb")


def test_a_reload_of_the_pipeline_keeps_its_period(page: Page) -> None:
    page.goto("/pipeline")
    page.get_by_text("1 h", exact=True).click()
    expect(page).to_have_url(re.compile(r"period=1"))
    page.reload()
    expect(page.get_by_role("radio", name="1 h")).to_be_checked()
    link = page.get_by_role("link", name="Open in a notebook")
    expect(link).to_have_attribute("href", re.compile(r"/api/notebook\?period=3600$"))
