"""A real browser on a real pipeline, which all browser tests share.

The fixtures end with the package: Playwright runs an event loop on this thread, so other tests could not use asyncio,
and an idle pipeline would slow other tests down.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, expect, sync_playwright

from filemill.config.settings import Settings
from tests.integration.processes import ProcessGroup, wait_until
from tests.servers import RunningServers, isolated_settings, watch

# Long enough to see a file in progress, short enough to wait for its end.
PROCESSING_SECONDS = 3
START_SECONDS = 60
# Time to render a page on a busy machine.
PAGE_MILLISECONDS = 30_000


@pytest.fixture(scope="package")
def browser_settings(servers: RunningServers) -> Settings:
    """Settings of the pipeline behind the page."""
    return isolated_settings(servers, processing_seconds=PROCESSING_SECONDS)


@pytest.fixture(scope="package")
def url(servers: RunningServers, browser_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's URL, with a complete pipeline."""
    with ProcessGroup(
        browser_settings, tmp_path_factory.mktemp("browser"), lambda pid: watch(servers, pid)
    ) as processes:
        for role in ("processor", "processor", "sync", "monitor"):
            processes.start(role)
        dashboard = processes.start("dashboard", port=0)
        (entry, *_) = wait_until(lambda: dashboard.lines("Dashboard started"), START_SECONDS, "the page is up")
        yield entry["url"]


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    """The system's Chromium."""
    expect.set_options(timeout=PAGE_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def watch_console(page: Page, errors: list[str]) -> None:
    """Collect the errors of a page's console, including violations of its content security policy."""

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(f"{page.url}: {message.text} ({message.location['url']})")

    page.on("console", on_console)


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The Files page, newly opened. The test fails on an error of a script or a violation of the policy."""
    context = browser.new_context(base_url=url, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PAGE_MILLISECONDS)
    page = context.new_page()
    errors: list[str] = []

    def on_dialog(dialog: Dialog) -> None:
        errors.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    page.on("pageerror", lambda error: errors.append(str(error)))
    watch_console(page, errors)
    page.on("dialog", on_dialog)
    page.goto("/")
    page.get_by_label("Title").wait_for()
    yield page
    context.close()
    assert errors == []
