"""The content security policy and the request filter in a real browser."""

import http.server
import threading

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import watch_console
from tests.browser.test_pages_in_a_browser import PATHS

# Charts, components and downloads are drawn within this time.
SETTLE_MILLISECONDS = 1500
REPORT_VIOLATIONS = """addEventListener("securitypolicyviolation", (event) => {
  console.error("blocked by the policy:", event.effectiveDirective, event.blockedURI);
});"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_violates_the_policy_or_logs_an_error_to_the_console(scheme: str, browser: Browser, url: str) -> None:
    httpx.post(f"{url}/api/files", json={"title": "a"}, trust_env=False).raise_for_status()
    context = browser.new_context(base_url=url, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    errors: list[str] = []
    watch_console(page, errors)
    page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
    page.add_init_script(REPORT_VIOLATIONS)
    for path in PATHS:
        answer = page.goto(path)
        assert answer is not None
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        expect(page.locator(".age")).to_be_visible()
        page.wait_for_timeout(SETTLE_MILLISECONDS)
    context.close()
    assert errors == []


# Newer versions of Chromium ask before a page of the internet may reach this machine; other browsers do not.
NO_LOCAL_NETWORK_CHECKS = (
    "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWarn,LocalNetworkAccessChecksWebSockets"
)
# Requests that a foreign page tries; returns the results.
ATTACK = """async (target) => {
  const post = (type, mode) => fetch(`${target}/api/files`, {
    method: "POST", mode, headers: { "content-type": type }, body: JSON.stringify({ title: "planted" }),
  }).then((answer) => answer.status, () => "failed");
  const socket = new Promise((resolve) => {
    const opened = new WebSocket(`${target.replace("http", "ws")}/_stcore/stream`, ["streamlit"]);
    opened.onopen = () => resolve("open");
    opened.onerror = () => resolve("failed");
  });
  const frame = document.createElement("iframe");
  frame.src = target;
  const framed = new Promise((resolve) => { frame.onload = resolve; });
  document.body.append(frame);
  await framed;
  return {
    read: await fetch(`${target}/api/files`).then((answer) => answer.status, () => "failed"),
    json: await post("application/json", "cors"),
    form: await post("text/plain", "no-cors"),
    socket: await socket,
    frame: frame.contentDocument?.title ?? "closed to us",
  };
}"""


def planted(url: str) -> list[object]:
    answer = httpx.get(f"{url}/api/files", params={"search": "planted"}, trust_env=False)
    items: list[object] = answer.raise_for_status().json()["items"]
    return items


def test_a_page_with_a_rebound_dns_name_can_neither_read_nor_write_nor_open_a_websocket(
    browser: Browser, chromium: str, url: str
) -> None:
    """The name resolves to another server when the page is loaded, and to the dashboard when its script runs."""
    port = httpx.URL(url).port
    rebound = f"http://evil.example:{port}"
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP evil.example 127.0.0.1",
        NO_LOCAL_NETWORK_CHECKS,
    ]
    other = browser.browser_type.launch(executable_path=chromium, args=arguments)
    page = other.new_page()
    page.route(f"{rebound}/attack", lambda route: route.fulfill(content_type="text/html", body="<body>evil</body>"))
    page.goto(f"{rebound}/attack")
    got = page.evaluate(ATTACK, rebound)
    assert (got["read"], got["json"], got["socket"]) == (421, 421, "failed")
    seen = page.goto(rebound)
    assert seen is not None
    assert seen.status == 421
    assert "FILEMILL_ALLOWED_HOSTS" in page.inner_text("body")
    other.close()
    assert planted(url) == []


def test_a_page_of_another_port_can_neither_write_nor_open_a_websocket(browser: Browser, url: str) -> None:
    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<body>evil</body>")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        got = page.evaluate(ATTACK, url)
        context.close()
        server.shutdown()
    assert got == dict.fromkeys(("read", "json", "form", "socket"), "failed") | {"frame": "closed to us"}
    assert planted(url) == []


def test_a_link_from_another_site_opens_the_page(browser: Browser, url: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.route(
        "http://other.example/", lambda route: route.fulfill(content_type="text/html", body=f'<a href="{url}">x')
    )
    page.goto("http://other.example/")
    page.get_by_role("link").click()
    expect(page.get_by_label("Title")).to_be_visible()
    context.close()
