"""A tab that can be hidden: Playwright reports each of its pages as visible."""

import contextlib
import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.integration.processes import wait_until

START_SECONDS = 30


class Tab:
    """One tab of a separate Chromium, over the DevTools protocol, and a second tab that can cover it."""

    def __init__(self, tools: str, socket: ClientConnection, own: str) -> None:
        self._tools = tools
        self._socket = socket
        self._own = own
        self._numbers = itertools.count(1)
        other = httpx.put(f"{tools}/json/new?about:blank", trust_env=False).raise_for_status().json()
        self._other: str = other["id"]
        self.sent = 0  # number of messages that the page sent over its WebSocket
        self._call("Network.enable")

    def show(self) -> None:
        """Bring the tab to the front."""
        httpx.get(f"{self._tools}/json/activate/{self._own}", trust_env=False).raise_for_status()
        wait_until(lambda: not self.run("document.hidden"), START_SECONDS, "the tab is visible")

    def hide(self) -> None:
        """Bring the other tab to the front."""
        httpx.get(f"{self._tools}/json/activate/{self._other}", trust_env=False).raise_for_status()
        wait_until(lambda: self.run("document.hidden"), START_SECONDS, "the tab is hidden")

    def go(self, url: str) -> None:
        """Load a page."""
        self._call("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """Evaluate an expression in the page. Returns None if it raises."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def listen(self, seconds: float) -> int:
        """Wait, and return the number of messages that the page sent meanwhile."""
        before, until = self.sent, time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while (left := until - time.monotonic()) > 0:
                self._count(json.loads(self._socket.recv(timeout=left)))
        return self.sent - before

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=START_SECONDS))
            if message.get("id") == number:
                result: dict[str, Any] = message["result"]
                return result
            self._count(message)

    def _count(self, message: dict[str, Any]) -> None:
        self.sent += message.get("method") == "Network.webSocketFrameSent"


@contextlib.contextmanager
def open_tab(program: str, folder: Path) -> Iterator[Tab]:
    """Start Chromium with its data in `folder`; stop it at the end of the context."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    with subprocess.Popen([program, *options, "about:blank"], stderr=subprocess.DEVNULL) as process:
        try:
            ports = folder / "DevToolsActivePort"
            (port, *_) = wait_until(lambda: _lines_of(ports), START_SECONDS, "Chromium listens")
            tools = f"http://127.0.0.1:{port}"
            tabs = httpx.get(f"{tools}/json", trust_env=False).raise_for_status().json()
            own = next(tab for tab in tabs if tab["type"] == "page")
            with connect(own["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                yield Tab(tools, socket, own["id"])
        finally:
            process.terminate()


def _lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
