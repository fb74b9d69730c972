"""Signing in with the launch token in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, expect

from filemill.adapters.postgres.tables import Operation
from filemill.config.settings import Settings
from filemill.domain.permissions import Role
from filemill.entrypoints import bootstrap
from tests.browser.conftest import watch_console
from tests.browser.test_accessibility import AXE, RUN_AXE
from tests.integration.processes import ProcessGroup, wait_until
from tests.principals import TEST

TOKEN = "launch-token-of-the-browser-test-0123"
PASSWORD = "correct horse battery"
START_SECONDS = 60
SCHEMES: list[Literal["light", "dark"]] = ["light", "dark"]


@pytest.fixture(scope="module")
def protected(browser_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a page that requires the launch token."""
    with ProcessGroup(browser_settings, tmp_path_factory.mktemp("token"), lambda _pid: None) as processes:
        dashboard = processes.start("dashboard", port=0, auth="token", launch_token=TOKEN)
        (entry, *_) = wait_until(lambda: dashboard.lines("Dashboard started"), START_SECONDS, "the page is up")
        yield entry["url"]


def test_the_token_signs_in_and_the_audit_has_the_session(
    browser: Browser, protected: str, browser_settings: Settings
) -> None:
    context = browser.new_context(base_url=protected)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("/pipeline")
    expect(page).to_have_url(f"{protected}/sign-in")
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.evaluate(AXE)
        assert page.evaluate(RUN_AXE) == []
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("The token is wrong")
    watch_console(page, errors)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{protected}/")
    page.get_by_label("Title").fill("By a signed-in browser")
    page.get_by_role("button", name="Create file").click()
    expect(page.get_by_text("created")).to_be_visible()
    (cookie,) = [one for one in context.cookies() if one["name"].startswith("filemill-")]
    assert cookie["httpOnly"]
    with httpx.Client(base_url=protected, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as rest:
        file_id = rest.get("/api/files", params={"search": "By a signed-in browser"}).json()["items"][0]["id"]
        page.goto(f"/file?id={file_id}")
        page.get_by_role("button", name="Cancel", exact=True).click()
        wait_until(lambda: rest.get(f"/api/files/{file_id}").json()["status"] == "cancelled", 10, "cancelled")
    engine = bootstrap.create_engine(browser_settings, "test")
    with engine.connect() as connection:
        latest = sa.select(Operation.actor).order_by(Operation.id.desc()).limit(1)
        assert connection.execute(latest).scalar_one() == "token:127.0.0.1"
    engine.dispose()
    context.close()
    assert errors == []


def test_a_person_signs_in_loses_a_role_in_an_open_tab_and_is_signed_out(
    browser: Browser, browser_settings: Settings, tmp_path: Path
) -> None:
    engine = bootstrap.create_engine(browser_settings, "test")
    accounts = bootstrap.accounts(engine)
    accounts.add("olga", Role.OPERATOR, PASSWORD, TEST)
    with ProcessGroup(browser_settings, tmp_path, lambda _pid: None) as processes:
        dashboard = processes.start("dashboard", port=0, auth="accounts")
        (entry, *_) = wait_until(lambda: dashboard.lines("Dashboard started"), START_SECONDS, "the page is up")
        context = browser.new_context(base_url=entry["url"])
        page = context.new_page()
        page.goto("/")
        page.evaluate(AXE)
        assert page.evaluate(RUN_AXE) == []
        page.get_by_label("Name").fill("Olga")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        create = page.get_by_role("button", name="Create file")
        expect(create).to_be_enabled()
        page.goto("/messages")
        expect(page.get_by_label("Topic")).to_be_visible()
        accounts.set_role("olga", Role.VIEWER, TEST)
        expect(page.get_by_text("Reading messages requires the role operator")).to_be_visible()  # by a refresh
        page.goto("/setup")
        expect(page.get_by_text("olga")).to_be_visible()
        page.goto("/")
        expect(create).to_be_disabled()
        accounts.disable("olga", TEST)
        expect(page.get_by_text("Your session has ended")).to_be_visible()
        page.reload()
        expect(page.get_by_label("Password")).to_be_visible()
        context.close()
    engine.dispose()


def test_without_the_cookie_a_websocket_is_refused(browser: Browser, protected: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{protected}/sign-in")
    opened = page.evaluate(
        """(url) => new Promise((resolve) => {
            const socket = new WebSocket(url, ["streamlit"]);
            socket.onopen = () => resolve("open");
            socket.onerror = () => resolve("failed");
        })""",
        f"{protected.replace('http', 'ws')}/_stcore/stream",
    )
    context.close()
    assert opened == "failed"
