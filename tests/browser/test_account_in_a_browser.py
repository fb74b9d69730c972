"""The page Account in a real browser: tokens are created, shown once and revoked; sessions are ended."""

import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from filemill.config.settings import Settings
from filemill.domain.permissions import Role
from filemill.domain.tokens import is_token
from filemill.entrypoints import bootstrap
from filemill.queries.audit import AuditFilter
from filemill.services.audit_log import AuditLog
from tests.browser.conftest import watch_console
from tests.browser.test_accessibility import AXE, RUN_AXE, SETTLE_MILLISECONDS
from tests.integration.processes import ProcessGroup, wait_until
from tests.principals import TEST

PASSWORD = "correct horse battery"
START_SECONDS = 60
NAMES = {"abel": Role.ADMIN, "sue": Role.SUBMITTER, "vera": Role.VIEWER}


@pytest.fixture(scope="module")
def url(browser_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a page on which people sign in; an admin, a submitter and a viewer have accounts."""
    engine = bootstrap.create_engine(browser_settings, "test")
    for name, role in NAMES.items():
        bootstrap.accounts(engine).add(name, role, PASSWORD, TEST)
    engine.dispose()
    with ProcessGroup(browser_settings, tmp_path_factory.mktemp("account"), lambda _pid: None) as processes:
        dashboard = processes.start("dashboard", port=0, auth="accounts")
        (entry, *_) = wait_until(lambda: dashboard.lines("Dashboard started"), START_SECONDS, "the page is up")
        yield entry["url"]


def sign_in(browser: Browser, url: str, name: str) -> Page:
    context = browser.new_context(base_url=url, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto("/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Account").click()
    expect(page.get_by_text("Your sessions")).to_be_visible()
    return page


def violations(page: Page) -> list[str]:
    """What axe finds in both themes and at both widths, and whether the page overflows its window."""
    found = []
    for scheme, width in (("light", 1440), ("dark", 800)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(SETTLE_MILLISECONDS)
        page.evaluate(AXE)
        found += [f"{scheme} {width}: {one}" for one in page.evaluate(RUN_AXE)]
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        found += [f"{width}: overflows by {overflow}"] if overflow > 0 else []
    return found


@pytest.mark.timeout(300)
def test_a_token_is_created_shown_once_used_and_revoked(browser: Browser, url: str, browser_settings: Settings) -> None:
    page = sign_in(browser, url, "sue")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    watch_console(page, errors)
    page.get_by_role("button", name="New token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("What is it for?").fill("nightly build")
    dialog.get_by_label("Addresses").fill("nowhere")
    dialog.get_by_role("button", name="Create token").click()
    expect(dialog.get_by_text("is no address or network")).to_be_visible()
    dialog.get_by_label("Addresses").fill("127.0.0.0/8, ::1")
    dialog.get_by_role("button", name="Create token").click()
    expect(dialog.get_by_text(re.compile("Token [0-9]+ was created"))).to_be_visible()
    secret = dialog.locator("code").inner_text().strip()
    assert is_token(secret)
    assert violations(page) == []
    dialog.get_by_role("button", name="Done").click()
    expect(page.get_by_role("cell", name="nightly build")).to_be_visible()
    assert violations(page) == []
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, trust_env=False) as rest:
        assert rest.get("/api/files").status_code == 200
        assert rest.post("/api/files", json={"title": "x"}).status_code == 403  # the first role offered is viewer
        page.reload()
        expect(page.get_by_role("cell", name="nightly build")).to_be_visible()
        assert secret not in page.content()
        page.get_by_role("button", name="Revoke").click()
        expect(page.get_by_role("cell", name="nightly build")).to_be_hidden()
        wait_until(lambda: rest.get("/api/files").status_code == 401, 10, "the token is refused")
    page.context.close()
    engine = bootstrap.create_engine(browser_settings, "test")
    rows = AuditLog(engine).page(AuditFilter(actor="sue", refused=False), TEST)
    engine.dispose()
    assert [row.action for row in rows] == ["token.revoke", "token.create"]
    for row in rows:  # the address and the request of the page's WebSocket, which the reload opened again
        assert (row.address, (row.authentication or "")[:8]) == ("127.0.0.1", "session:")
    assert len({row.request_id for row in rows}) == 2
    assert all(re.fullmatch("[0-9a-f]{24}", row.request_id or "") for row in rows)
    assert errors == []


@pytest.mark.timeout(300)
def test_an_admin_sees_the_tokens_of_others_and_a_viewer_creates_none(
    browser: Browser, url: str, browser_settings: Settings
) -> None:
    engine = bootstrap.create_engine(browser_settings, "test")
    bootstrap.tokens(engine).create("of sue", Role.VIEWER, TEST, owner="sue")
    admin, viewer = sign_in(browser, url, "abel"), sign_in(browser, url, "vera")
    expect(viewer.get_by_role("button", name="New token")).to_be_disabled()
    expect(viewer.get_by_text("of sue")).to_be_hidden()
    expect(admin.get_by_role("cell", name="of sue")).to_be_visible()
    assert violations(admin) == []
    admin.get_by_role("button", name="Revoke").click()
    expect(admin.get_by_role("cell", name="of sue")).to_be_hidden()
    assert bootstrap.tokens(engine).list(TEST, "sue") == []
    engine.dispose()
    admin.context.close()
    viewer.context.close()


def test_another_session_is_ended_from_the_page(browser: Browser, url: str) -> None:
    first, second = sign_in(browser, url, "vera"), sign_in(browser, url, "vera")
    own = first.get_by_role("row").filter(has_text="this browser")
    expect(own).to_have_count(1)
    others = first.get_by_role("row").filter(has_text="other")
    expect(others).not_to_have_count(0)
    while left := others.count():
        others.first.get_by_role("button", name="Sign out").click()
        expect(others).to_have_count(left - 1)
        first.reload()
        expect(own).to_have_count(1)
    expect(second.get_by_text("Your session has ended")).to_be_visible()
    expect(own).to_have_count(1)
    first.context.close()
    second.context.close()
