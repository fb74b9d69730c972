"""Escape closes one thing at a time, and the focus returns to what was used."""

import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from tests.integration.announcements import INVOICE, announce

REFRESH_MILLISECONDS = 2500
CLOSINGS = ["Escape", "Close"]


@pytest.fixture
def _announced(browser_settings: Settings) -> Iterator[None]:
    """A worker with a handler, which does not fall silent during the test."""
    engine, stop = bootstrap.create_engine(browser_settings, "test"), threading.Event()

    def run() -> None:
        while not stop.is_set():
            announce(engine, INVOICE, worker="keyboard-1")
            stop.wait(3)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()
    engine.dispose()


def close(page: Page, drawer: Locator, how: str) -> None:
    if how == "Escape":
        page.keyboard.press("Escape")
    else:
        drawer.get_by_role("button", name="Close").click()
    expect(drawer).to_have_count(0)


def test_escape_closes_a_menu_and_leaves_the_focus_on_its_button(page: Page) -> None:
    button = page.get_by_role("button", name="All matching")
    button.click()
    retry = page.get_by_role("button", name="Retry").last
    expect(retry).to_be_visible()
    page.wait_for_timeout(REFRESH_MILLISECONDS)  # a refresh closes no menu
    expect(retry).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("[data-testid=stPopoverBody]")).to_be_hidden()
    expect(button).to_be_focused()


@pytest.mark.usefixtures("_announced")
def test_escape_closes_a_list_and_then_its_dialog(page: Page) -> None:
    page.goto("/")
    page.get_by_role("button", name="New job …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Number")).to_be_visible()
    dialog.get_by_role("combobox").first.click()
    options = page.get_by_role("option")
    expect(options.first).to_be_visible()
    page.keyboard.press("Escape")
    expect(options).to_have_count(0)
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


@pytest.mark.parametrize("how", CLOSINGS)
def test_the_focus_returns_to_the_row_of_a_file(how: str, page: Page) -> None:
    page.get_by_label("Title").fill(f"Focus after {how}")
    page.get_by_role("button", name="Create").first.click()
    opener = page.get_by_role("button", name=f"Focus after {how}")
    opener.click()
    drawer = page.get_by_role("dialog")
    expect(drawer.get_by_text(f"Focus after {how}")).to_be_visible()
    page.wait_for_timeout(REFRESH_MILLISECONDS)
    close(page, drawer, how)
    expect(opener).to_be_focused()


@pytest.mark.parametrize("how", CLOSINGS)
def test_the_focus_returns_to_the_row_of_a_record(how: str, page: Page, browser_settings: Settings) -> None:
    page.goto(f"/messages?topic={browser_settings.topic_worker_events}")
    table = page.get_by_role("table", name="Messages")
    table.get_by_role("row").nth(2).get_by_role("button").click()
    drawer = page.get_by_role("dialog")
    expect(drawer.get_by_text("Key and headers")).to_be_visible()
    opened = table.locator("tr[aria-current=true]").get_by_role("button")
    name = opened.inner_text()
    close(page, drawer, how)
    expect(page.get_by_role("button", name=name, exact=True)).to_be_focused()
