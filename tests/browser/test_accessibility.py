"""The pages meet WCAG 2.1 AA as far as axe-core can check it, in both themes and at both widths."""

import importlib.resources
import json
from urllib.parse import urlencode

import httpx
import msgspec
import pytest
from playwright.sync_api import Browser, Page, expect

from filemill.config.settings import Settings
from tests.browser.conftest import PAGE_MILLISECONDS
from tests.integration import topics
from tests.integration.announcements import INVOICE, announced
from tests.integration.processes import wait_until

# Bundled in a package of the test requirements, so that no test needs the network.
AXE = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
WIDTHS = (1440, 800)
START_SECONDS = 60
# Tables, charts and details have been drawn by then.
SETTLE_MILLISECONDS = 2000
# A tooltip is drawn at the end of the body, outside of all landmarks, while the pointer rests on its element, which
# names it by aria-describedby. "region" is a best practice for content that is found by landmarks, which a tooltip is
# not. All other rules hold for tooltips too.
RUN_AXE = """async () => {
    const { violations } = await axe.run(document, { elementRef: true });
    return violations.flatMap(rule => rule.nodes
        .filter(node => rule.id !== "region" || !node.element.querySelector(":scope > [role=tooltip]"))
        .map(node => `${rule.id} (${rule.impact}): ${node.html.slice(0, 200)} ${node.failureSummary}`));
}"""

PATHS = [
    "/",
    "/?file=1",
    "/file?id=1",
    "/pipeline",
    "/workers?worker=processor-1",
    "/performance",
    "/letters?view=All&place=0:0",
    "/messages?topic=worker.events&place=0:0",
    "/experiments",
    "/experiments?part=Faults",
    "/setup",
    "/setup?show=Settings",
    "/activity",
    "/activity?entry=1",
]


@pytest.fixture(scope="module")
def filled(browser_settings: Settings, url: str) -> str:
    """The page's URL, after a file, a dead letter and a recorded operation exist."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        for title in ("a report", "a second report"):
            client.post("/api/files", json={"title": title, "description": "text"}).raise_for_status()
        client.post("/api/files/2/cancel").raise_for_status()
        blank = {"fileId": 1, "title": " ", "description": "", "timestamp": "2026-01-04T12:00:00Z"}
        topics.publish(browser_settings, browser_settings.topic_create, [json.dumps(blank).encode()])
        wait_until(lambda: client.get("/api/dead-letters").json()["items"], START_SECONDS, "a dead letter exists")
    return url


def violations(page: Page) -> list[str]:
    """All violations that axe-core finds, with its best practices, one line per element."""
    page.evaluate(AXE)
    found: list[str] = page.evaluate(RUN_AXE)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_a_page_has_no_accessibility_violations(path: str, scheme: str, browser: Browser, filled: str) -> None:
    context = browser.new_context(base_url=filled, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(PAGE_MILLISECONDS)
    page = context.new_page()
    found = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        if width == WIDTHS[0]:
            page.goto(path)
        expect(page.locator(".age")).to_be_visible()
        page.wait_for_timeout(SETTLE_MILLISECONDS)
        found += [f"{width} pixels: {violation}" for violation in violations(page)]
    context.close()
    assert found == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_handlers_of_different_versions_have_no_accessibility_violations(
    scheme: str, browser: Browser, browser_settings: Settings, filled: str
) -> None:
    context = browser.new_context(base_url=filled, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(PAGE_MILLISECONDS)
    page = context.new_page()
    found = []
    later = msgspec.structs.replace(INVOICE, version="3")
    with announced(browser_settings, {"invoice-worker": INVOICE, "later-worker": later}):
        page.goto("/workers")
        expect(page.get_by_text("Workers have different versions of invoice")).to_be_visible()
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(SETTLE_MILLISECONDS)
            found += [f"{width} pixels: {violation}" for violation in violations(page)]
    context.close()
    assert found == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_dialog_and_a_menu_have_no_accessibility_violations(scheme: str, browser: Browser, filled: str) -> None:
    context = browser.new_context(
        base_url=filled,
        viewport={"width": 1440, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    context.set_default_timeout(PAGE_MILLISECONDS)
    page = context.new_page()
    page.goto(f"/?{urlencode({'status': 'cancelled'})}")
    page.get_by_role("button", name="All matching").click()
    expect(page.get_by_role("link", name="Export as CSV")).to_be_visible()
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    found = violations(page)
    page.get_by_role("button", name="Delete all matching").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    found += violations(page)
    context.close()
    assert found == []
