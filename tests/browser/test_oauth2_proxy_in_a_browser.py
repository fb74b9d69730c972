"""Sign-in behind TLS in a real browser: mode `proxy` with a real oauth2-proxy, and the cookies of mode `accounts`."""

import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from filemill.config.settings import Settings
from filemill.domain.permissions import Role
from filemill.entrypoints import bootstrap
from filemill_infra.embedded.servers.jars import usable_cache
from tests.integration.nginx import free_port, listens, start_nginx
from tests.integration.oidc_provider import CLIENT, SECRET, Provider, running_provider
from tests.integration.processes import ProcessGroup, wait_until
from tests.principals import TEST
from tests.servers import RunningServers, isolated_settings, watch

# Chromium resolves names below localhost to loopback, but does not treat their pages as those of a loopback address.
NAME = "files.localhost"
PASSWORD = "correct horse battery"
START_SECONDS = 60
BUILD_SECONDS = 900
MODULE = "github.com/oauth2-proxy/oauth2-proxy/v7"
VERSION = "v7.15.6"
ROLES = '{"pipeline": "operator", "staff": "viewer"}'
GUIDE = Path(__file__).parents[2] / "docs" / "security.md"
IDENTITY = {"X-Forwarded-User": "mallory", "X-Forwarded-Groups": "pipeline", "X-Forwarded-Email": "m@example.org"}


class Site(NamedTuple):
    """The page at `url`, through all proxies; `direct` is the address of the dashboard itself."""

    url: str
    direct: str


@pytest.fixture(scope="module")
def oauth2_proxy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program: installed, or built by Go into the user's cache."""
    found = shutil.which("oauth2-proxy")
    if found is not None:
        return found
    program = usable_cache(tmp_path_factory.mktemp("build")) / f"oauth2-proxy-{VERSION}" / "oauth2-proxy"
    if program.is_file():
        return str(program)
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        pytest.skip("neither oauth2-proxy nor Go")
    environment = {"GOBIN": str(program.parent)}
    command = [go, "install", f"{MODULE}@{VERSION}"]
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(program)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider() as provider:
        for name, groups in (("ann", ["pipeline", "staff"]), ("bob", ["staff"]), ("eve", [])):
            provider.person(name, email=f"{name}@example.org", email_verified=True, groups=groups)
        yield provider


@pytest.fixture(scope="module")
def proxied(
    servers: RunningServers, oauth2_proxy: str, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Nginx with TLS, oauth2-proxy behind it, and the dashboard behind that."""
    folder, settings = tmp_path_factory.mktemp("proxied"), isolated_settings(servers)
    outer, inner = free_port(), free_port()
    url = f"https://{NAME}:{outer}"
    with ProcessGroup(settings, folder, lambda pid: watch(servers, pid)) as processes:
        dashboard = processes.start(
            "dashboard",
            port=0,
            auth="proxy",
            public_url=url,
            trusted_proxies="127.0.0.1",
            proxy_roles=ROLES,
            proxy_sign_out_url="/oauth2/sign_out",
        )
        (entry, *_) = wait_until(lambda: dashboard.lines("Dashboard started"), START_SECONDS, "the page is up")
        configuration = _documented(folder, provider.issuer, url, inner, entry["url"])
        program = processes.run("oauth2-proxy", [oauth2_proxy, "--config", str(configuration)], {})
        wait_until(lambda: listens(inner), START_SECONDS, f"oauth2-proxy listens\n{program.tail()}")
        start_nginx(processes, folder, f"http://127.0.0.1:{inner}", outer, NAME)
        yield Site(url, entry["url"])


def _documented(folder: Path, issuer: str, url: str, port: int, upstream: str) -> Path:
    """The configuration of the guide, with this test's addresses and secrets."""
    found = re.search(r"```toml\n(http_address.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found is not None
    (folder / "oidc").write_text(SECRET)
    (folder / "cookie").write_bytes(secrets.token_bytes(32))
    text = found[1].replace("/run/secrets", str(folder)).replace("https://id.corp.example/realms/main", issuer)
    text = text.replace("127.0.0.1:4180", f"127.0.0.1:{port}").replace("http://127.0.0.1:8501", upstream)
    text = text.replace("https://files.example", url).replace('client_id = "filemill"', f'client_id = "{CLIENT}"')
    path = folder / "oauth2-proxy.cfg"
    path.write_text(text)
    return path


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[[str], BrowserContext]]:
    """Makes a browser of somebody. The certificate is from an authority of the test."""
    contexts: list[BrowserContext] = []

    def new(url: str) -> BrowserContext:
        viewport = {"width": 1280, "height": 800}
        contexts.append(browser.new_context(base_url=url, viewport=viewport, ignore_https_errors=True))  # type: ignore[arg-type]
        return contexts[-1]

    yield new
    for context in contexts:
        context.close()


def sign_in(context: BrowserContext, name: str) -> Page:
    """Sign in at the provider, to which oauth2-proxy leads."""
    page = context.new_page()
    page.goto("/")
    page.get_by_role("button", name=re.compile("Sign in with")).click()
    page.get_by_placeholder("sub").fill(name)
    page.get_by_role("button", name="Authorize").click()
    return page


def expect_secure_cookies(context: BrowserContext, name: str) -> None:
    """Each cookie of the site is for this host and TLS only, and there is one of this name.

    Streamlit's cookie is no credential: its script sends it back in a header.
    """
    cookies = [cookie for cookie in context.cookies() if cookie["domain"] == NAME]
    assert all(cookie["secure"] and cookie["path"] == "/" for cookie in cookies), cookies
    credentials = [cookie for cookie in cookies if cookie["name"] != "_streamlit_xsrf"]
    assert any(cookie["name"].startswith(name) for cookie in credentials)
    for cookie in credentials:
        assert cookie["name"].startswith("__Host-"), cookie["name"]
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax"), cookie["name"]


def request_from_outside(
    site: Site, method: str, headers: dict[str, str], context: BrowserContext | None = None
) -> httpx.Response:
    """Ask for the files, or for a new one, with the cookies of a browser. Python does not resolve NAME."""
    port = httpx.URL(site.url).port
    given = {"accept": "application/json", "host": f"{NAME}:{port}", "origin": site.url, **headers}
    if context is not None:
        given["cookie"] = "; ".join(f"{one['name']}={one['value']}" for one in context.cookies(site.url))
    body = {"title": "Forged"} if method == "POST" else None
    with httpx.Client(verify=False, trust_env=False) as http:  # noqa: S501 - the test's own certificate
        return http.request(method, f"https://127.0.0.1:{port}/api/files", headers=given, json=body)


@pytest.mark.slow(reason="Go builds oauth2-proxy, which takes minutes")
@pytest.mark.timeout(BUILD_SECONDS + 300)
def test_people_come_through_oauth2_proxy_with_name_and_role(
    new_context: Callable[[str], BrowserContext], proxied: Site, tmp_path: Path
) -> None:
    context = new_context(proxied.url)
    page = sign_in(context, "ann")
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    expect(page).to_have_url(f"{proxied.url}/")
    page.goto("/account")
    expect(page.get_by_text("proxy:ann (ann@example.org)", exact=True)).to_be_visible()
    expect(page.get_by_text("operator", exact=True)).to_be_visible()
    page.screenshot(path=tmp_path / "operator.png")
    assert any(url.startswith(f"wss://{NAME}:") for url in sockets)
    page.goto("/")
    page.get_by_label("Title").fill("Through two proxies")
    page.get_by_role("button", name="Create file").click()
    expect(page.get_by_text("created")).to_be_visible()
    expect_secure_cookies(context, "__Host-oauth2-proxy")

    viewer = sign_in(new_context(proxied.url), "bob")
    expect(viewer.get_by_role("button", name="Create file")).to_be_disabled()
    nobody = sign_in(new_context(proxied.url), "eve")
    expect(nobody.get_by_role("alert")).to_contain_text("eve is signed in, but has no role in filemill")

    page.goto("/sign-out")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name=re.compile("Sign in with"))).to_be_visible()
    assert request_from_outside(proxied, "GET", {}, context).status_code in {401, 403}


@pytest.mark.slow(reason="Go builds oauth2-proxy, which takes minutes")
@pytest.mark.timeout(BUILD_SECONDS + 300)
def test_forged_headers_give_nobody_another_name_or_role(
    new_context: Callable[[str], BrowserContext], proxied: Site
) -> None:
    forged = {**IDENTITY, "X-Auth-Request-User": "mallory", "X-Auth-Request-Groups": "pipeline"}
    # From outside, without a session and with one of somebody else.
    for headers in (forged, {**forged, "X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}):
        assert request_from_outside(proxied, "GET", headers).status_code in {401, 403}
    for name in ("bob", "eve"):
        context = new_context(proxied.url)
        sign_in(context, name).wait_for_url(f"{proxied.url}/")
        refused = request_from_outside(proxied, "POST", forged, context)
        assert refused.status_code == 403
        message = refused.json()["error"]["message"]
        assert name in message
        assert "mallory" not in message
    # Directly at the dashboard, from an address that is not the proxy's.
    for address, status in (("127.0.0.1", 200), ("127.0.0.9", 401)):
        transport = httpx.HTTPTransport(local_address=address)
        with httpx.Client(base_url=proxied.direct, transport=transport, trust_env=False) as direct:
            for headers in (IDENTITY, {**IDENTITY, "X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"}):
                assert direct.get("/api/files", headers=headers).status_code == status, address


def test_a_session_behind_tls_is_a_secure_cookie_and_opens_a_limited_number_of_pages(
    servers: RunningServers, new_context: Callable[[str], BrowserContext], tmp_path: Path
) -> None:
    settings: Settings = isolated_settings(servers)
    engine = bootstrap.create_engine(settings, "test")
    bootstrap.accounts(engine).add("olga", Role.OPERATOR, PASSWORD, TEST)
    engine.dispose()
    port = free_port()
    url = f"https://{NAME}:{port}"
    with ProcessGroup(settings, tmp_path, lambda pid: watch(servers, pid)) as processes:
        dashboard = processes.start(
            "dashboard", port=0, auth="accounts", public_url=url, trusted_proxies="127.0.0.1", limit_open_pages=2
        )
        (entry, *_) = wait_until(lambda: dashboard.lines("Dashboard started"), START_SECONDS, "the page is up")
        start_nginx(processes, tmp_path, entry["url"], port, NAME)
        context = new_context(url)
        page = context.new_page()
        page.goto("/")
        page.get_by_label("Name").fill("olga")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("button", name="Create file")).to_be_enabled()
        expect_secure_cookies(context, "__Host-filemill")
        page.goto("/account")
        expect(page.get_by_text("operator", exact=True)).to_be_visible()
        second, third = context.new_page(), context.new_page()
        second.goto("/")
        expect(second.get_by_label("Title")).to_be_visible()
        third.goto("/")
        expect(third.get_by_role("alert")).to_contain_text("2 of your pages are open")
        second.close()
        expect(third.get_by_label("Title")).to_be_visible()  # it tries again by itself
        expect(page.get_by_text("2 of 2", exact=True)).to_be_visible()
