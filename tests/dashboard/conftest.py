"""Pages under AppTest, on real servers or on unreachable addresses."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from streamlit.components.v2.bidi_component.main import _make_trigger_id
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest

from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from filemill_dashboard.server import HERE
from filemill_dashboard.state import page_data
from filemill_dashboard.state import services as services_module
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.services import Services

# Pages whose file name differs from their URL path.
PAGE_FILES = {"letters": "dead_letters"}
# A page is drawn within milliseconds; a busy machine needs more.
PAGE_SECONDS = 30


def closed_port() -> int:
    """Return a local port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Page:
    """The page of one viewer, and the data that its components show."""

    def __init__(self, app: AppTest) -> None:
        self.app = app

    def shown(self, name: str, key: str) -> dict[str, Any]:
        """The data of the component `name` that is mounted under `key`."""
        for element in self.elements():
            if element.type == "bidi_component":
                proto = element.proto
                if proto.component_name == f"filemill.{name}" and proto.id.endswith(f"-{key}"):
                    data: dict[str, Any] = json.loads(proto.json)
                    return data
        raise AssertionError(f"the page shows no {name} {key!r}")

    def notices(self, key: str = "banners") -> list[dict[str, str]]:
        """The banners under `key`."""
        found: list[dict[str, str]] = self.shown("notices", key)["notices"]
        return found

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the list of files."""
        found: list[dict[str, Any]] = self.shown("file_table", "files")["rows"]
        return found

    def press(self, label: str) -> None:
        """Press the only button with this label."""
        (button,) = [button for button in self.app.button if button.label == label]
        button.click()

    def run(self) -> "Page":
        """Run the page again and check that it shows no exception."""
        self.app.run()
        assert not self.app.exception
        return self

    def send(self, name: str, key: str, trigger: str, value: object) -> "Page":
        """Run the page as after this message of its browser about a component. Nothing checks it: it may be forged."""
        (component,) = [
            element.proto.id
            for element in self.elements()
            if element.type == "bidi_component"
            and element.proto.component_name == f"filemill.{name}"
            and element.proto.id.endswith(f"-{key}")
        ]
        payload = json.dumps([{"event": trigger, "value": value}])
        frame = WidgetState(id=_make_trigger_id(component, "events"), json_trigger_value=payload)
        tree = self.app._tree
        states = tree.get_widget_states()
        states.widgets.append(frame)
        # The next run has another tree.
        tree.get_widget_states = lambda: states  # type: ignore[method-assign]
        return self.run()

    def until_noticed(self) -> None:
        """Refresh until there is a banner. Probes run in the background, so a later refresh has their result."""
        pause = threading.Event()
        deadline = time.monotonic() + PAGE_SECONDS
        while not self.run().notices():
            assert time.monotonic() < deadline, "the page showed no banner"
            pause.wait(0.1)

    def elements(self) -> Iterator[Any]:
        """All elements of the page and of its dialog."""
        return self._elements(self.app._tree)

    def _elements(self, block: Any) -> Iterator[Any]:
        for child in block.children.values():
            if hasattr(child, "children"):
                yield from self._elements(child)
            else:
                yield child


OpenPage = Callable[..., Page]


def _finish_reads(data: PageData) -> None:
    """Wait for the reads in progress: a connection that is returned after the engine is disposed of stays open."""
    for pool in data._pools.values():
        pool.shutdown(wait=True, cancel_futures=True)


@pytest.fixture
def open_page() -> Iterator[OpenPage]:
    """Open a page (`files` or `pipeline`) on the servers that the settings name, with the URL's parameters."""
    with contextlib.ExitStack() as stack:

        def open_(settings: Settings, name: str = "files", **url: str) -> Page:
            engine = bootstrap.create_engine(settings, "page")
            stack.callback(engine.dispose)
            services_module.install(Services(settings, engine))
            app = AppTest.from_file(HERE / "app.py", default_timeout=PAGE_SECONDS)
            for parameter, value in url.items():
                app.query_params[parameter] = value
            page = Page(app).run()
            stack.callback(_finish_reads, page_data.current())
            if name != "files":
                app.switch_page(f"app_pages/{PAGE_FILES.get(name, name)}.py")
                for parameter, value in url.items():
                    app.query_params[parameter] = value
                page.run()
            return page

        yield open_
        services_module.install(None)
