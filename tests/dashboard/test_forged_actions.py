"""Forged messages from a browser: components drop what they did not draw, and the use case rejects it."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.file_actions import FileAction
from filemill.domain.files import Status
from filemill.queries.files import FilePage
from filemill.runtime.stack_state import ProcessRef, StackState, WorkerState
from filemill.runtime.supervisor_client import CommandRejected, SupervisorCommand, SupervisorResponse
from filemill.services import stack_workers
from filemill_dashboard.components import bars, file_table, filter_tiles, grid
from filemill_dashboard.components.filter_tiles import Tile
from filemill_dashboard.components.grid import Column, RowAction, TableRow
from tests.principals import PAGE

PROCESS = ProcessRef(pid=1, created=0.0)


class Browser:
    """Mounts components without a page, and sends values as their scripts would, or forged ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.callbacks: dict[str, Any] = {}
        self._state: dict[str, SimpleNamespace] = {}
        for module in (grid, filter_tiles, bars, file_table):
            monkeypatch.setattr(module, "component", lambda _name: self._mount)
            monkeypatch.setattr(module, "st", SimpleNamespace(session_state=self._state))

    def _mount(self, *, key: str, data: object, **callbacks: Any) -> None:
        del data
        self.callbacks[key] = callbacks

    def send(self, key: str, trigger: str, value: object) -> None:
        triggers = ("open", "action", "choice", "page", "sort", "act")
        self._state[key] = SimpleNamespace(**{name: value if name == trigger else None for name in triggers})
        self.callbacks[key][f"on_{trigger}_change"]()


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Browser:
    return Browser(monkeypatch)


FORGED = [
    {"row": "monitor-1", "action": "stop"},
    {"row": "w1", "action": "stop"},
    {"row": "w1", "action": "explode"},
    {"row": "w1"},
    {"row": ["w1"], "action": {"quiet": 1}},
    {},
    "w1",
    17,
]


def test_a_grid_accepts_only_rows_and_buttons_that_it_drew(browser: Browser) -> None:
    received: list[object] = []
    rows = [
        TableRow(
            "w1", {}, actions=[RowAction("quiet", "Quiet"), RowAction("stop", "Stop", "This stack did not start it")]
        )
    ]
    grid.data_grid(
        "workers",
        [Column("id", "Worker")],
        rows,
        label="Workers",
        empty=("", ""),
        on_open=received.append,
        on_action=lambda row, act: received.append((row, act)),
    )
    for value in FORGED:
        browser.send("workers", "action", value)
    for opened in ("w2", ["w1"], 1):
        browser.send("workers", "open", opened)
    assert received == []
    browser.send("workers", "action", {"row": "w1", "action": "quiet"})
    browser.send("workers", "open", "w1")
    assert received == [("w1", "quiet"), "w1"]


def test_tiles_and_bars_accept_only_what_they_drew(browser: Browser) -> None:
    received: list[str] = []
    filter_tiles.filter_tiles(
        "tiles", [Tile("a", "A", 1, "none")], "", label="", stale=False, on_choice=received.append
    )
    bars.bars("bars", {"b": 1}, "", label="", empty="", on_choice=received.append)
    for value in ("x", ["a"], {"a": 1}, 7):
        browser.send("tiles", "choice", value)
        browser.send("bars", "choice", value)
    assert received == []
    browser.send("tiles", "choice", "a")
    browser.send("bars", "choice", "b")
    browser.send("bars", "choice", "")
    assert received == ["a", "b", ""]


FORGED_ACTS = [
    {"action": "delete", "ids": [1, 3]},
    {"action": "delete", "ids": []},
    {"action": "delete", "ids": [True]},
    {"action": "delete", "ids": ["1"]},
    {"action": "delete", "ids": 1},
    {"action": "drop", "ids": [1]},
    {"action": "retry", "ids": [1]},
    {"action": ["delete"], "ids": [1]},
    {},
    "delete",
]


def test_the_list_acts_only_on_files_that_it_drew(browser: Browser) -> None:
    received: list[object] = []
    now = datetime.now(UTC)
    blank: dict[str, Any] = dict.fromkeys(FileRow.__struct_fields__)
    given = {**blank, "title": "t", "description": "", "status": Status.COMPLETED, "created_at": now, "run": 1}
    rows = [FileRow(**{**given, "id": number}) for number in (1, 2)]
    file_table.file_table(
        FilePage(rows, None, None, now),
        age_seconds=0,
        stale=False,
        highlighted=None,
        empty=("", ""),
        on_open=received.append,
        on_page=received.append,
        on_sort=lambda: received.append("sort"),
        on_act=lambda action, ids: received.append((action, ids)),
        refusal=lambda action, _owner: "A viewer may not retry files" if action is FileAction.RETRY else "",
    )
    for value in FORGED_ACTS:
        browser.send("files", "act", value)
    assert received == []
    browser.send("files", "act", {"action": "delete", "ids": [2, 1]})
    assert received == [(FileAction.DELETE, [2, 1])]


def stack() -> StackState:
    workers = [
        WorkerState(role=role, id=f"{role}-1", process=PROCESS, log="")
        for role in ("processor", "monitor", "sync", "dashboard")
    ]
    return StackState(
        home="/nowhere", supervisor=PROCESS, started_at="", settings={}, servers=[], workers=workers, control="/nowhere"
    )


@pytest.mark.parametrize(
    "order",
    [
        SupervisorCommand("stop", worker="monitor-1"),
        SupervisorCommand("kill", worker="dashboard-1"),
        SupervisorCommand("stop", worker="processor-9"),
        SupervisorCommand("stop"),
        SupervisorCommand("scale", role="monitor", count=0),
        SupervisorCommand("scale", role="processor", count=-1),
        SupervisorCommand("scale", role="processor", count=10_000),
        SupervisorCommand("fault", target="kafka", seconds=1),
    ],
    ids=str,
)
def test_a_page_may_stop_kill_and_scale_file_processors_only(
    order: SupervisorCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[SupervisorCommand] = []

    def give(_stack: StackState, order: SupervisorCommand) -> SupervisorResponse:
        given.append(order)
        return SupervisorResponse()

    monkeypatch.setattr(stack_workers, "send", give)
    with pytest.raises(CommandRejected):
        stack_workers.send_supervisor_command(SimpleNamespace(), stack(), order, PAGE)  # type: ignore[arg-type]
    assert given == []


def test_a_processor_of_the_stack_may_be_stopped() -> None:
    stack_workers.check_allowed(stack(), SupervisorCommand("stop", worker="processor-1"))
    stack_workers.check_allowed(stack(), SupervisorCommand("scale", role="processor", count=3))
