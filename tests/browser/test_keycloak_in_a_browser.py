"""The whole sign-in at a real Keycloak in a real browser: groups, roles, their loss, sign-out, and an outage."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from tests.browser.conftest import watch_console
from tests.integration.keycloak import AUDIENCE, CLIENT, PASSWORD, ROBOT, SECRET, Keycloak, running_keycloak
from tests.integration.processes import ProcessGroup, wait_until
from tests.principals import TEST
from tests.servers import RunningServers, isolated_settings, watch

START_SECONDS = 60
ROLES = {"operators": "operator", "everybody": "viewer"}
GROUPS = {
    "ann": ["operators", "everybody"],
    "bob": ["everybody"],
    "carl": ["operators", "everybody"],
    "dora": ["operators"],
    "eve": ["visitors"],
    ROBOT: ["operators"],
}
Picture = Callable[[Page, str], None]


class Site(NamedTuple):
    """The page at `url`, whose people sign in at `keycloak`."""

    url: str
    keycloak: Keycloak
    settings: Settings


@pytest.fixture(scope="module")
def site(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, settings = tmp_path_factory.mktemp("keycloak"), isolated_settings(servers)
    port, keycloak_port = _free_ports()
    url = f"http://127.0.0.1:{port}"
    client = {
        "redirectUris": [f"{url}/sign-in/keycloak/callback"],
        "attributes": {
            "pkce.code.challenge.method": "S256",
            "post.logout.redirect.uris": f"{url}/sign-in",
            "backchannel.logout.url": f"{url}/sign-in/keycloak/back-channel-logout",
            "backchannel.logout.session.required": "true",
        },
    }
    with (
        ProcessGroup(settings, folder, lambda pid: watch(servers, pid)) as processes,
        running_keycloak(processes, folder, keycloak_port, client, GROUPS) as keycloak,
    ):
        provider = {
            "name": "Keycloak",
            "issuer": keycloak.issuer,
            "client_id": CLIENT,
            "client_secret": SECRET,
            "roles": ROLES,
            "api_audience": AUDIENCE,
        }
        dashboard = processes.start(
            "dashboard", port=port, auth="oidc", public_url=url, oidc_providers=json.dumps({"keycloak": provider})
        )
        wait_until(lambda: dashboard.lines("Dashboard started"), START_SECONDS, "the page is up")
        yield Site(url, keycloak, settings)


def _free_ports() -> list[int]:
    """Two ports that are free: both programs know each other's before they start."""
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in (first, second)]


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    """Takes a picture of a page, which stays in the test's folder."""

    def take(page: Page, name: str) -> None:
        page.screenshot(path=tmp_path / f"{name}.png")

    return take


@pytest.fixture
def new_context(browser: Browser, site: Site) -> Iterator[Callable[[], BrowserContext]]:
    """Makes a browser of somebody: cookies of its own."""
    contexts: list[BrowserContext] = []

    def new() -> BrowserContext:
        contexts.append(browser.new_context(base_url=site.url, viewport={"width": 1280, "height": 800}))
        return contexts[-1]

    yield new
    for context in contexts:
        context.close()


def sign_in(context: BrowserContext, name: str) -> Page:
    """Sign in from filemill's page, by the form of Keycloak."""
    page = context.new_page()
    page.goto("/")
    page.get_by_role("link", name="Sign in with Keycloak").click()
    fill_form(page, name)
    return page


def fill_form(page: Page, name: str) -> None:
    page.get_by_label("Username or email").fill(name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign In").click()


def expect_identity(page: Page, name: str, role: str) -> None:
    page.goto("/account")
    expect(page.get_by_text(name, exact=True)).to_be_visible()
    expect(page.get_by_text(role, exact=True)).to_be_visible()


@pytest.mark.timeout(600)  # the first start downloads and builds Keycloak
def test_the_groups_of_keycloak_give_the_role_on_the_page(
    new_context: Callable[[], BrowserContext], site: Site, picture: Picture
) -> None:
    errors: list[str] = []
    page = new_context().new_page()
    page.goto("/pipeline")
    expect(page).to_have_url(f"{site.url}/sign-in")
    picture(page, "1-sign-in")
    page.get_by_role("link", name="Sign in with Keycloak").click()
    expect(page.get_by_label("Username or email")).to_be_visible()
    assert page.url.startswith(f"{site.keycloak.issuer}/protocol/openid-connect/auth?")
    picture(page, "2-keycloak")
    fill_form(page, "ann")
    expect(page).to_have_url(f"{site.url}/")
    page.on("pageerror", lambda error: errors.append(str(error)))
    watch_console(page, errors)
    expect(page.get_by_role("button", name="Create file")).to_be_enabled()
    picture(page, "3-operator")
    expect_identity(page, "keycloak/ann", "operator")
    picture(page, "4-account-of-an-operator")
    assert errors == []

    viewer = sign_in(new_context(), "bob")
    expect(viewer.get_by_role("button", name="Create file")).to_be_disabled()
    picture(viewer, "5-viewer")
    expect_identity(viewer, "keycloak/bob", "viewer")

    refused = sign_in(new_context(), "eve")
    expect(refused.get_by_role("alert")).to_contain_text("eve signed in at Keycloak, but has no role in filemill")
    expect(refused.get_by_role("alert")).to_contain_text("The claim groups has: visitors")
    picture(refused, "6-no-role")


def test_keycloak_refuses_a_sign_in_without_pkce(site: Site) -> None:
    query = {
        "client_id": CLIENT,
        "response_type": "code",
        "scope": "openid",
        "redirect_uri": f"{site.url}/sign-in/keycloak/callback",
    }
    answer = httpx.get(f"{site.keycloak.issuer}/protocol/openid-connect/auth", params=query, trust_env=False)
    assert "error=invalid_request" in answer.headers["location"]
    assert "code_challenge_method" in answer.headers["location"]


def test_who_loses_a_group_at_keycloak_loses_the_role_in_an_open_tab(
    new_context: Callable[[], BrowserContext], site: Site, picture: Picture
) -> None:
    tab = sign_in(new_context(), "carl")
    expect(tab).to_have_url(f"{site.url}/")
    tab.goto("/messages")
    expect(tab.get_by_label("Topic")).to_be_visible()
    site.keycloak.leave_group("carl", "operators")
    # The role is read at each sign-in, and holds for all sessions of the person.
    sign_in(new_context(), "carl").wait_for_url(f"{site.url}/")
    expect(tab.get_by_text("Reading messages requires the role operator")).to_be_visible()
    picture(tab, "1-demoted")
    site.keycloak.leave_group("carl", "everybody")
    expect(sign_in(new_context(), "carl").get_by_role("alert")).to_contain_text("has no role in filemill")
    expect(tab.get_by_text("Your session has ended")).to_be_visible()
    picture(tab, "2-revoked")
    tab.reload()
    expect(tab.get_by_role("link", name="Sign in with Keycloak")).to_be_visible()


def test_sign_out_of_the_page_signs_out_at_keycloak(
    new_context: Callable[[], BrowserContext], site: Site, picture: Picture
) -> None:
    context = new_context()
    page = sign_in(context, "dora")
    expect_identity(page, "keycloak/dora", "operator")
    assert site.keycloak.sessions_of("dora") == 1
    page.goto("/sign-out")
    page.get_by_role("button", name="Sign out").click()
    # Keycloak asks, because it gets no ID token: filemill keeps none.
    page.get_by_role("button", name="Logout").wait_for()
    picture(page, "1-keycloak-asks")
    page.get_by_role("button", name="Logout").click()
    expect(page).to_have_url(f"{site.url}/sign-in")
    picture(page, "2-signed-out")
    assert site.keycloak.sessions_of("dora") == 0
    page.get_by_role("link", name="Sign in with Keycloak").click()
    expect(page.get_by_label("Password", exact=True)).to_be_visible()  # it does not remember her


def test_who_is_signed_out_at_keycloak_is_signed_out_of_the_open_tab(
    new_context: Callable[[], BrowserContext], site: Site, picture: Picture
) -> None:
    tabs = [sign_in(new_context(), "bob") for _ in range(2)]
    for tab in tabs:
        expect(tab.get_by_role("button", name="Create file")).to_be_disabled()
    # In the second browser, by an application that is not filemill: its own session ends, not the other one.
    account = tabs[1].context.new_page()
    account.goto(f"{site.keycloak.issuer}/protocol/openid-connect/logout")
    account.get_by_role("button", name="Logout").click()
    expect(tabs[1].get_by_text("Your session has ended")).to_be_visible()
    picture(tabs[1], "1-signed-out-at-keycloak")
    assert tabs[0].request.get("/api/files").status == 200
    site.keycloak.sign_out("bob")  # an admin ends all
    expect(tabs[0].get_by_text("Your session has ended")).to_be_visible()


def test_a_service_account_uses_rest_with_its_role(site: Site) -> None:
    headers = {"Authorization": f"Bearer {site.keycloak.robot_token()}"}
    with httpx.Client(base_url=site.url, headers=headers, trust_env=False) as rest:
        created = rest.post("/api/files", json={"title": "By a robot"})
        assert created.status_code == 201
        assert rest.get(f"/api/files/{created.json()['id']}").json()["owner"] == f"keycloak/service-account-{ROBOT}"
        assert rest.post(f"/api/files/{created.json()['id']}/cancel").status_code == 200
        many = rest.post("/api/files/delete", json={"all": True, "status": "failed"})
        assert (many.status_code, many.json()["error"]["code"]) == (403, "forbidden")
        assert rest.get("/", headers={"accept": "text/html"}).status_code in {303, 401}  # tokens are for REST
        changed = headers["Authorization"][:-4] + "AAAA"
        assert rest.get("/api/files", headers={"Authorization": changed}).status_code == 401
        engine = bootstrap.create_engine(site.settings, "test")
        bootstrap.accounts(engine).disable(f"keycloak/service-account-{ROBOT}", TEST)
        engine.dispose()
        wait_until(lambda: rest.get("/api/files").status_code == 401, 10, "the token is refused")


def test_without_keycloak_sessions_go_on_and_the_sign_in_page_says_why_not(
    new_context: Callable[[], BrowserContext], site: Site, picture: Picture
) -> None:
    page = sign_in(new_context(), "ann")
    expect(page.get_by_role("button", name="Create file")).to_be_enabled()
    site.keycloak.process.kill()
    page.reload()
    page.get_by_label("Title").fill("Without Keycloak")
    page.get_by_role("button", name="Create file").click()
    expect(page.get_by_text("created")).to_be_visible()
    picture(page, "1-session-goes-on")
    other = new_context().new_page()
    other.goto("/")
    other.get_by_role("link", name="Sign in with Keycloak").click()
    alert = other.get_by_role("alert")
    expect(alert).to_contain_text(re.compile(r"You cannot sign in now\. Keycloak \(127\.0\.0\.1\) cannot be used"))
    picture(other, "2-no-sign-in")
    page.goto("/sign-out")
    page.get_by_role("button", name="Sign out").click()
    expect(
        page.get_by_text("You are signed out of filemill. You may still be signed in at the provider")
    ).to_be_visible()
    picture(page, "3-signed-out")
    assert [cookie for cookie in page.context.cookies(site.url) if cookie["name"].startswith("filemill-")] == []
