"""A change of page while the former page still asks for refreshes."""

from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

# The top bar asks for a refresh every 2 s.
LATE_MILLISECONDS = 10_000
SETTLE_MILLISECONDS = 2500


@dataclass
class SlowConnection:
    """The page's connection. While `held` is set, nothing that the server sends arrives.

    `asked` are the requests; `answered` is the number of messages that begin or end a refresh.
    """

    held: bool = False
    answered: int = 0
    asked: list[BackMsg] = field(default_factory=list)
    _waiting: list[bytes | str] = field(default_factory=list)
    _browser: WebSocketRoute | None = None

    def attach(self, browser: WebSocketRoute) -> None:
        """Pass messages between the page and the server."""
        server = browser.connect_to_server()
        self._browser = browser

        def to_server(message: bytes | str) -> None:
            if isinstance(message, bytes):
                self.asked.append(BackMsg.FromString(message))
            server.send(message)

        def to_browser(message: bytes | str) -> None:
            if isinstance(message, bytes):
                self.answered += len(ForwardMsg.FromString(message).metadata.run.fragment_ids) > 0
            if self.held:
                self._waiting.append(message)
            else:
                browser.send(message)

        browser.on_message(to_server)
        server.on_message(to_browser)

    def release(self) -> None:
        """Deliver what was held, in order."""
        self.held = False
        assert self._browser is not None
        for message in self._waiting:
            self._browser.send(message)
        self._waiting.clear()

    def refreshes(self) -> int:
        """The number of requests for a part of a page."""
        return sum(bool(message.rerun_script.fragment_id) for message in self.asked)


@pytest.fixture
def connection(page: Page) -> SlowConnection:
    """The connection of the pages that the test opens."""
    connection = SlowConnection()
    page.route_web_socket("**/_stcore/stream", connection.attach)
    return connection


# The body is the fourth element of most pages; on Files it follows the form.
@pytest.mark.parametrize(("start", "target"), [("Workers", "Pipeline"), ("Pipeline", "Files"), ("Files", "Workers")])
def test_a_refresh_of_the_former_page_does_not_break_the_new_one(
    start: str, target: str, page: Page, connection: SlowConnection
) -> None:
    page.goto("/" if start == "Files" else f"/{start.lower()}")
    expect(page.locator(".age")).to_be_visible()
    connection.held = True
    page.get_by_role("link", name=target, exact=True).click()
    # The former page is still shown, and asks for a refresh.
    before = connection.refreshes()
    for _ in range(LATE_MILLISECONDS // 100):
        page.wait_for_timeout(100)
        if connection.refreshes() > before:
            break
    assert connection.refreshes() > before
    connection.release()
    expect(page.get_by_role("heading", name=target, level=1)).to_be_attached()
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    expect(page.get_by_role("heading", name=target, level=1)).to_be_attached()
    expect(page.locator(".age")).to_be_visible()
    assert page.evaluate("sessionStorage.getItem('filemill-reloaded-at')") is None
    # The new page is refreshed.
    answered = connection.answered
    for _ in range(LATE_MILLISECONDS // 100):
        page.wait_for_timeout(100)
        if connection.answered > answered:
            break
    assert connection.answered > answered


def test_a_page_is_refreshed_after_it_was_loaded(page: Page, connection: SlowConnection) -> None:
    for path in ("/", "/workers"):
        page.goto(path)
        expect(page.locator(".age")).to_be_visible()
        page.wait_for_timeout(SETTLE_MILLISECONDS)
        answered = connection.answered
        for _ in range(LATE_MILLISECONDS // 100):
            page.wait_for_timeout(100)
            if connection.answered > answered:
                break
        assert connection.answered > answered
