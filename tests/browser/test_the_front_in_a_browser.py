"""The page's front in a real browser: its policy suits every page, and foreign pages are kept out."""

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import watch_console
from tests.browser.test_pages_in_a_browser import PATHS

# Charts, components and downloads have been drawn by then.
SETTLE_MILLISECONDS = 1500
REPORT_VIOLATIONS = """addEventListener("securitypolicyviolation", (event) => {
  console.error("refused by the policy:", event.effectiveDirective, event.blockedURI);
});"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_breaks_the_policy_or_writes_an_error_to_the_console(scheme: str, browser: Browser, url: str) -> None:
    httpx.post(f"{url}/api/files", json={"title": "a"}, trust_env=False).raise_for_status()
    context = browser.new_context(base_url=url, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    troubles: list[str] = []
    watch_console(page, troubles)
    page.on("pageerror", lambda error: troubles.append(f"{page.url}: {error}"))
    page.add_init_script(REPORT_VIOLATIONS)
    for path in PATHS:
        answer = page.goto(path)
        assert answer is not None
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        expect(page.get_by_text("as of")).to_be_visible()
        page.wait_for_timeout(SETTLE_MILLISECONDS)
    context.close()
    assert troubles == []
