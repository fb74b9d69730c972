"""A real browser on a real pipeline: one world for the browser tests, its processes and its page.

The fixtures end with the package: Playwright keeps an event loop running on this thread, where no other test could use
asyncio, and a pipeline that idles beside the other tests takes their time.
"""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, expect, sync_playwright

from filemill.config.settings import Settings
from tests.integration.processes import ProcessGroup, wait_until
from tests.servers import RunningServers, isolated_settings, watch

# Long enough to see a file on its way, short enough to wait for its end.
PROCESSING_SECONDS = 3
START_SECONDS = 60
# What a busy machine needs to draw a page.
PAGE_MILLISECONDS = 30_000
BASE_PATH_PROBE = re.compile(r"/[a-z]+/_stcore/(health|host-config)$")


@pytest.fixture(scope="package")
def browser_settings(servers: RunningServers) -> Settings:
    """Settings of the world that the browser looks at."""
    return isolated_settings(servers, processing_seconds=PROCESSING_SECONDS)


@pytest.fixture(scope="package")
def url(servers: RunningServers, browser_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's address, with a whole pipeline behind it."""
    with ProcessGroup(
        browser_settings, tmp_path_factory.mktemp("browser"), lambda pid: watch(servers, pid)
    ) as processes:
        for role in ("processor", "processor", "sync", "monitor"):
            processes.start(role)
        dashboard = processes.start("dashboard", port=0)
        (said, *_) = wait_until(lambda: dashboard.lines("Dashboard started"), START_SECONDS, "the page is up")
        yield said["url"]


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    """Chromium as the system has it."""
    expect.set_options(timeout=PAGE_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def watch_console(page: Page, troubles: list[str]) -> None:
    """Collect the errors of a page's console, what its policy refuses among them.

    Streamlit looks for its base path below the page's own, and finds nothing there: that is how it works.
    """

    def on_console(said: ConsoleMessage) -> None:
        if said.type == "error" and not BASE_PATH_PROBE.search(said.location["url"]):
            troubles.append(f"{page.url}: {said.text} ({said.location['url']})")

    page.on("console", on_console)


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The Files page, freshly opened. A test fails where a script of it does, or where its policy refuses something."""
    context = browser.new_context(base_url=url, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PAGE_MILLISECONDS)
    page = context.new_page()
    troubles: list[str] = []

    def on_dialog(dialog: Dialog) -> None:
        troubles.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    page.on("pageerror", lambda error: troubles.append(str(error)))
    watch_console(page, troubles)
    page.on("dialog", on_dialog)
    page.goto("/")
    page.get_by_label("Title").wait_for()
    yield page
    context.close()
    assert troubles == []
