"""Jobs in a browser: the form that follows from a handler's schema, a CSV file, the file's page, and the queues."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from filemill.config.settings import Settings
from tests.integration.announcements import INVOICE, announced

CSV = b'title,number,lines\nFirst,AB-1,"[{""text"": ""Work"", ""price"": 1}]"\nSecond,wrong,\n'
GOOD_CSV = b'title,queue,number,lines\nFirst,bulk,AB-1,"[{""text"": ""Work"", ""price"": 1}]"\n'


@pytest.fixture(autouse=True)
def invoice(browser_settings: Settings) -> Iterator[None]:
    """A worker that has the handler `invoice` and sends events."""
    with announced(browser_settings, {"invoice-worker": INVOICE}):
        yield


def open_dialog(page: Page) -> None:
    page.goto("/")
    page.get_by_role("button", name="New job …").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_role("dialog").get_by_label("Number")).to_be_visible()


def test_a_job_is_created_by_the_form_of_its_schema(page: Page) -> None:
    open_dialog(page)
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Title").fill("Invoice 7")
    dialog.get_by_label("Number").fill("wrong")
    dialog.get_by_role("button", name="Create job").click()
    expect(dialog.get_by_text("$.parameters.lines")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_a_csv_file_is_previewed_with_its_errors_before_anything_is_created(page: Page) -> None:
    open_dialog(page)
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("tab", name="Many from a CSV file").click()
    upload = dialog.locator("input[type=file]")
    upload.set_input_files({"name": "invoices.csv", "mimeType": "text/csv", "buffer": CSV})
    expect(dialog.get_by_text("1 row cannot be accepted")).to_be_visible()
    expect(dialog.get_by_role("button", name="Create 1 file")).to_be_disabled()
    upload.set_input_files({"name": "good.csv", "mimeType": "text/csv", "buffer": GOOD_CSV})
    dialog.get_by_role("button", name="Create 1 file").click()
    expect(dialog).to_be_hidden()
    page.goto("/?queue=bulk")
    expect(page.get_by_text("First").first).to_be_visible()


def test_pipeline_shows_the_backlog_of_each_queue(page: Page) -> None:
    page.goto("/pipeline")
    for queue in ("default", "jobs", "urgent", "bulk"):
        expect(page.get_by_role("cell", name=queue, exact=True)).to_be_visible()


def test_workers_shows_the_handlers(page: Page) -> None:
    page.goto("/workers")
    expect(page.get_by_role("cell", name="invoice", exact=True)).to_be_visible()
