"""The pages: no layout shifts at a refresh, and no overflow at any width."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from filemill.config.settings import Settings
from tests.browser.hidden_tab import START_SECONDS, open_tab
from tests.integration.processes import wait_until

SETTLE_MILLISECONDS = 4000
# Three refreshes of 2 s.
WATCH_MILLISECONDS = 6500

WATCH_SHIFTS = """() => {
  window.shifts = [];
  const named = (node) => node?.outerHTML?.slice(0, 200) ?? `${node?.parentNode?.className}: ${node?.textContent}`;
  new PerformanceObserver((list) => list.getEntries().forEach((entry) => window.shifts.push([
    entry.value,
    entry.sources.map((one) => [named(one.node), JSON.stringify(one.previousRect), JSON.stringify(one.currentRect)]),
  ]))).observe({ type: "layout-shift" });
}"""
AGE = "[...document.querySelectorAll('*')].map((n) => n.shadowRoot?.querySelector('.age')).find(Boolean)?.textContent"


PATHS = [
    "/",
    "/pipeline",
    "/workers",
    "/performance",
    "/letters",
    "/messages",
    "/experiments",
    "/experiments?part=Faults",
    "/activity",
    "/setup",
    "/file?id=1",
]


@pytest.mark.parametrize("path", ["/", "/pipeline", "/workers"])
def test_a_refresh_causes_no_layout_shift(path: str, page: Page) -> None:
    page.goto(path)
    expect(page.locator(".age")).to_be_visible()
    if path == "/pipeline":
        page.locator(".js-plotly-plot .legend").first.wait_for()
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.evaluate(WATCH_SHIFTS)
    ages = []
    for _ in range(WATCH_MILLISECONDS // 100):
        page.wait_for_timeout(100)
        ages.append(float(page.evaluate(AGE).split()[1]))
    assert page.evaluate("window.shifts") == []
    # The age grows and drops: new data arrived.
    assert sum(later < earlier for earlier, later in pairwise(ages)) >= 2
    assert max(ages) < 6


@pytest.mark.parametrize(("width", "scheme"), [(800, "light"), (1024, "dark"), (1440, "light"), (1920, "dark")])
def test_a_page_does_not_overflow_its_window(width: int, scheme: str, browser: Browser, url: str) -> None:
    context = browser.new_context(
        base_url=url,
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = context.new_page()
    for path in PATHS:
        page.goto(path)
        expect(page.locator(".age")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        overflow = page.evaluate(
            "(() => { const main = document.querySelector('.stMain'); return main.scrollWidth - main.clientWidth; })()"
        )
        assert overflow <= 0
    context.close()


def test_the_names_of_the_servers_fit_at_1440_pixels_with_another_entry(page: Page) -> None:
    """With sign-in, the navigation has ten entries: Account is the last."""
    page.goto("/workers")
    expect(page.locator(".age")).to_be_visible()
    page.evaluate("""() => {
      const entries = document.querySelectorAll('.st-key-nav .stElementContainer');
      const copy = entries[entries.length - 1].cloneNode(true);
      copy.querySelector('p').textContent = 'Account';
      entries[entries.length - 1].after(copy);
    }""")
    for name in ("PostgreSQL", "Kafka", "S3"):
        expect(page.locator(".server").filter(has_text=name).locator(".name")).to_be_visible()
    nav = page.locator(".st-key-nav")
    assert nav.evaluate("(node) => node.scrollWidth - node.clientWidth") <= 0


def test_a_blank_page_is_reloaded_with_its_url(page: Page) -> None:
    page.goto("/workers?state=idle")
    expect(page.locator(".age")).to_be_visible()
    page.evaluate("document.getElementById('root').remove()")
    page.evaluate("document.body.append(Object.assign(document.createElement('div'), { id: 'root' }))")
    expect(page.locator(".age")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/workers\?state=idle$"))
    expect(page.get_by_role("table", name="Workers")).to_be_visible()


def test_a_page_that_stays_without_elements_is_reloaded(browser: Browser, url: str) -> None:
    context = browser.new_context(base_url=url)
    page = context.new_page()
    page.goto("/workers?state=idle")
    expect(page.locator(".age")).to_be_visible()
    page.evaluate("document.querySelector('[data-testid=stMainBlockContainer]').remove()")
    expect(page.locator(".age")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/workers\?state=idle$"))
    context.close()


def test_the_pipeline_shows_the_consumer_group(page: Page) -> None:
    page.get_by_role("link", name="Pipeline").click()
    matrix = page.get_by_role("table", name="Partitions and their owners")
    expect(matrix.get_by_role("rowheader")).to_have_count(2)
    expect(matrix.get_by_label("owned")).to_have_count(3)
    expect(page.get_by_text("stable")).to_be_visible()
    expect(page.get_by_text("Consumer group", exact=True)).to_be_visible()


def test_no_request_goes_to_another_host(browser: Browser, url: str) -> None:
    context = browser.new_context(base_url=url)
    page = context.new_page()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    for path in PATHS:
        page.goto(path)
        expect(page.locator(".age")).to_be_visible()
    page.wait_for_timeout(1000)
    assert [address for address in requested if not address.startswith((url, "data:", "blob:"))] == []
    context.close()


def test_a_hidden_tab_sends_nothing_and_refreshes_when_shown(url: str, chromium: str, tmp_path: Path) -> None:
    with open_tab(chromium, tmp_path) as tab:
        tab.show()
        tab.go(f"{url}/workers")
        wait_until(lambda: "ago" in (tab.run(AGE) or ""), START_SECONDS, "the page shows data")
        assert tab.listen(WATCH_MILLISECONDS / 1000) >= 2
        tab.hide()
        tab.listen(0.5)  # messages in flight
        assert tab.listen(WATCH_MILLISECONDS / 1000) == 0
        before = tab.sent
        tab.show()  # also listens until the tab is visible
        tab.listen(1.0)
        assert tab.sent > before


def test_workers_and_their_states_are_shown(page: Page) -> None:
    page.goto("/workers")
    table = page.get_by_role("table", name="Workers")
    for name in ("processor-1", "processor-2"):
        row = table.get_by_role("row").filter(has_text=name)
        expect(row.get_by_text("idle").or_(row.get_by_text("busy"))).to_be_visible()
        expect(row.get_by_role("button", name="Kill")).to_have_attribute("aria-disabled", "true")
    table.get_by_role("button", name="processor-1").click()
    expect(page).to_have_url(re.compile(r"worker=processor-1"))
    expect(page.get_by_text("Assigned").first).to_be_visible()
    page.reload()
    expect(page.get_by_text("Assigned").first).to_be_visible()


def test_opening_a_row_selects_it_and_shows_it_in_a_drawer(page: Page, browser_settings: Settings) -> None:
    page.set_viewport_size({"width": 1024, "height": 300})
    page.goto(f"/messages?topic={browser_settings.topic_worker_events}")
    first = page.get_by_role("table", name="Messages").get_by_role("row").nth(1)
    first.get_by_role("button").click()
    drawer = page.get_by_role("dialog")
    expect(drawer).to_be_in_viewport()
    expect(drawer.get_by_text("Key and headers")).to_be_visible()
    drawer.get_by_text("Key and headers").scroll_into_view_if_needed()
    expect(drawer.get_by_text("Key and headers")).to_be_in_viewport()
    expect(page.get_by_role("table", name="Messages").locator("tr[aria-current=true]")).to_have_count(1)
