"""The Workers page."""

import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File, Operation, Worker
from filemill.adapters.postgres.worker_events import store_events
from filemill.config.settings import Settings
from filemill.domain.files import new_file
from filemill.domain.worker_events import EventKind, Vitals, WorkerCondition, WorkerEvent
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill.ports import ReceivedEvent
from filemill.queries.history import audit_entries
from filemill.queries.workers import WORKERS_MAX, WorkerQuery, count_workers, list_workers
from filemill.runtime.stack_state import ProcessRef, StackState, WorkerState, running_stack, write_state
from filemill.runtime.supervisor_client import CommandRejected, OutcomeUnknown, SupervisorCommand, SupervisorResponse
from filemill.services import stack_workers
from filemill_dashboard.components.grid import data_grid
from tests.dashboard.conftest import OpenPage, Page, closed_port
from tests.integration.group_samples import insert_samples
from tests.principals import PAGE

PAGE_WORKERS = 50

_offsets = iter(range(10_000))
# In the future, so that no worker counts as dead before a busy machine has drawn the page.
LAST_EVENT_AGO = -60.0


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Settings without an embedded stack."""
    return settings.model_copy(update={"home": tmp_path})


def store_event(engine: sa.Engine, worker: str, kind: EventKind, *, ago: float = LAST_EVENT_AGO, **fields: Any) -> None:
    at = datetime.now(UTC) - timedelta(seconds=ago)
    event = WorkerEvent(kind=kind, worker_id=worker, timestamp=at, processing_seconds=6, **fields)
    with engine.begin() as connection:
        store_events(connection, [ReceivedEvent(0, next(_offsets), event)])


def heartbeat(
    engine: sa.Engine, worker: str, *, ago: float = LAST_EVENT_AGO, owned: list[int] | None = None, **vitals: Any
) -> None:
    store_event(engine, worker, EventKind.HEARTBEAT, ago=ago, owned=owned or [], vitals=Vitals(**vitals))


@pytest.fixture
def sync_active(engine: sa.Engine) -> None:
    """An active status sync: without one, silence does not mean that a worker is dead."""
    hold = "INSERT INTO leases (name, holder, fencing, expires_at) VALUES ('sync', 's', 1, now() + interval '1 h')"
    with engine.begin() as connection:
        connection.execute(sa.text(hold))


def rows(page: Page) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in page.shown("grid", "workers")["rows"]}


@pytest.mark.usefixtures("sync_active")
def test_busy_idle_stuck_dead_and_stopped_workers_are_distinguished(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    heartbeat(
        engine, "busy", owned=[0, 2], in_flight=3, oldest_seconds=2, headroom_seconds=299, rss_bytes=1000, finished=9
    )
    heartbeat(engine, "idle")
    heartbeat(engine, "stuck", in_flight=1, busy_seconds=60)
    heartbeat(engine, "dead", ago=30, in_flight=4, rss_bytes=1000)
    heartbeat(engine, "quiet", quiet=True)
    store_event(engine, "stopped", EventKind.STOPPED)
    page = open_page(settings, "workers")
    found = rows(page)
    assert {name: row["cells"]["state"] for name, row in found.items()} == {
        "busy": ["busy", "busy"],
        "dead": ["dead", "bad"],
        "idle": ["idle", "good"],
        "quiet": ["idle · quiet", "good"],
        "stopped": ["stopped", "none"],
        "stuck": ["stuck", "warn"],
    }
    busy = found["busy"]["cells"]
    assert (busy["owned"], busy["in_flight"], busy["headroom"], busy["memory"]) == (["P0", "P2"], 3, 299, 1000)
    assert found["dead"]["cells"]["memory"] is None  # the last known value is not shown
    assert {act["name"] for act in found["quiet"]["actions"]} == {"resume", "stop", "kill"}
    assert {act["name"]: act["disabled_reason"] for act in found["busy"]["actions"]} == {
        "quiet": "",
        "stop": "Stop it where it was started",
        "kill": "Stop it where it was started",
    }
    tiles = {tile["label"]: tile["count"] for tile in page.shown("filter_tiles", "states")["tiles"]}
    assert tiles == {"All workers": 6, "Busy": 1, "Idle": 2, "Stuck": 1, "Dead": 1, "Stopped": 1}
    assert set(rows(open_page(settings, "workers", state="dead"))) == {"dead"}


def test_an_outage_of_kafka_makes_every_state_unknown(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    heartbeat(engine, "w1", in_flight=1)
    heartbeat(engine, "w2", ago=30)
    away = settings.model_copy(update={"kafka_broker": f"127.0.0.1:{closed_port()}"})
    page = open_page(away, "workers")
    page.until_noticed()
    page.run()
    found = rows(page)
    assert {name: row["cells"]["state"] for name, row in found.items()} == {
        "w1": ["unknown", "none"],
        "w2": ["unknown", "none"],
    }
    assert "Kafka is unreachable" in found["w1"]["titles"]["state"]
    quiet = next(act for act in found["w1"]["actions"] if act["name"] == "quiet")
    assert quiet["disabled_reason"] == "Kafka is unreachable"
    assert page.shown("grid", "workers")["stale"]
    tiles = {tile["label"]: tile["count"] for tile in page.shown("filter_tiles", "states")["tiles"]}
    unknown = dict.fromkeys(("Busy", "Idle", "Stuck", "Dead", "Stopped"))
    assert tiles == {"All workers": 2, **unknown}


@pytest.mark.parametrize(
    "kind", [EventKind.BREAKER_OPENED, EventKind.RETRYING, EventKind.HANDLERS, EventKind.DEAD_LETTERED]
)
def test_an_event_that_does_not_name_the_partitions_of_a_worker_keeps_them(
    kind: EventKind, settings: Settings, engine: sa.Engine
) -> None:
    heartbeat(engine, "processor-1", ago=2, owned=[0, 2])
    store_event(engine, "processor-1", kind, ago=1)
    with engine.connect() as connection:
        (worker,) = list_workers(connection, WorkerQuery())
    assert worker.owned == [0, 2]
    store_event(engine, "processor-1", EventKind.REVOKED, ago=0.5, owned=[])
    store_event(engine, "processor-1", kind, ago=0.4)
    with engine.connect() as connection:
        assert list_workers(connection, WorkerQuery())[0].owned == []


def test_without_a_status_sync_no_worker_is_called_dead(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    heartbeat(engine, "w", ago=30)
    page = open_page(settings, "workers")
    assert rows(page)["w"]["cells"]["state"] == ["unknown", "none"]


@pytest.mark.usefixtures("sync_active")
def test_workers_are_paginated_with_live_ones_first_and_all_are_counted(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    heartbeat(engine, "z-alive", in_flight=1)
    at = datetime.now(UTC) - timedelta(seconds=60)
    names = [f"forged-{number:04}" for number in range(5000)]
    rows_ = [{"worker_id": name, "heard_at": at, "kind": "heartbeat"} for name in names]
    with engine.begin() as connection:
        say_ = WorkerEvent(kind=EventKind.HEARTBEAT, worker_id="forged", timestamp=at, owned=list(range(50)))
        body = msgspec.to_builtins(say_)
        connection.execute(sa.insert(Worker), [{**row, "body": body} for row in rows_])
    page = open_page(settings, "workers")
    found = list(rows(page))
    assert (found[0], len(found)) == ("z-alive", PAGE_WORKERS)
    tiles = {tile["label"]: tile["count"] for tile in page.shown("filter_tiles", "states")["tiles"]}
    assert (tiles["All workers"], tiles["Dead"], tiles["Busy"]) == (5001, 5000, 1)
    assert any(caption.value == "1 to 50 of 5,001 workers" for caption in page.app.caption)
    last = rows(open_page(settings, "workers", page="101"))
    assert list(last) == ["forged-4999"]
    assert set(rows(open_page(settings, "workers", find="ALIVE"))) == {"z-alive"}
    chosen = open_page(settings, "workers", worker="forged-4999")
    assert chosen.shown("facts", "vitals")["facts"]
    with engine.connect() as connection:
        assert len(list_workers(connection)) == WORKERS_MAX
    assert len(json.dumps(page.shown("grid", "workers"))) < 60_000


def test_counts_and_lists_agree_on_the_condition_of_workers(settings: Settings, engine: sa.Engine) -> None:
    del settings
    of_each: list[dict[str, Any]] = [
        {},
        {"in_flight": 1},
        {"in_flight": 2, "busy_seconds": 16.5},
        {"in_flight": 1, "busy_seconds": 15.0},
    ]
    for number, vitals in enumerate(of_each):
        heartbeat(engine, f"w{number}", **vitals)
        heartbeat(engine, f"d{number}", ago=30, **vitals)
    store_event(engine, "s", EventKind.STOPPED)
    with engine.connect() as connection:
        shown = Counter(worker.condition for worker in list_workers(connection))
        counted = count_workers(connection)
        assert counted == {condition: shown[condition] for condition in WorkerCondition}
        for condition, count in counted.items():
            listed = list_workers(connection, WorkerQuery(condition.value))
            assert [worker.condition for worker in listed] == [condition] * count


def test_cpu_is_a_share_of_the_time_between_heartbeats(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    heartbeat(engine, "w", ago=LAST_EVENT_AGO + 4, cpu_seconds=10)
    heartbeat(engine, "w", ago=LAST_EVENT_AGO, cpu_seconds=11)
    heartbeat(engine, "new", cpu_seconds=99)
    found = rows(open_page(settings, "workers"))
    assert found["w"]["cells"]["cpu"] == pytest.approx(0.25, abs=0.01)
    assert found["new"]["cells"]["cpu"] is None


def test_a_selected_worker_shows_its_files_in_progress_and_events(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    store_event(engine, "w", EventKind.ASSIGNED, partitions=[1], owned=[1], epoch=4)
    heartbeat(engine, "w", ago=LAST_EVENT_AGO - 1, owned=[1], in_flight=1)
    with engine.begin() as connection:
        (file_id,) = insert_many(connection, [new_file("<b>in hand</b>")])
        values = {"status": "processing", "worker_id": "w", "step": 2, "steps": 6, "kafka_partition": 1}
        connection.execute(sa.update(File).where(File.id == file_id).values(**values))
    page = open_page(settings, "workers", worker="w")
    (row,) = page.shown("grid", "in-progress")["rows"]
    assert (row["cells"]["title"], row["cells"]["step"]) == ("<b>in hand</b>", "2 of 6")
    vitals = {fact["name"]: fact["value"] for fact in page.shown("facts", "vitals")["facts"]}
    assert (vitals["Partitions"], vitals["CPU"]) == ("P1", None)
    (step,) = page.shown("timeline", "events")["steps"]
    assert (step["title"], step["detail"]) == ("Assigned", "P1 · epoch 4")


def test_a_worker_story_has_its_kill_its_restart_and_its_member_id(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    store_event(engine, "w", EventKind.STARTED, ago=90, pid=1, host="h")
    store_event(engine, "w", EventKind.ASSIGNED, ago=89, partitions=[0], owned=[0], epoch=1)
    store_event(engine, "w", EventKind.STARTED, ago=LAST_EVENT_AGO, pid=77, host="h")
    at = datetime.now(UTC) - timedelta(seconds=60)
    acts = [
        {"action": "stack.kill", "detail": {"worker": "w"}},
        {"action": "quiet", "detail": {"worker": None}},
        {"action": "fault", "detail": {"fault": "killed", "target": "w", "refused": "no"}},
        {"action": "stack.stop", "detail": {"worker": "another"}},
    ]
    with engine.begin() as connection:
        for place, act in enumerate(acts):
            values = {**act, "at": at + timedelta(seconds=place), "actor": "ana"}
            connection.execute(sa.insert(Operation).values(**values))
        insert_samples(connection, {0: 5}, since=4, owner="w", group=settings.group_id)
    page = open_page(settings, "workers", worker="w")
    steps = [(step["title"], step["detail"]) for step in page.shown("timeline", "events")["steps"]]
    assert steps == [
        ("Restarted", "the process before it ended without a stop"),
        ("Quiet requested", "by ana · all workers"),
        ("Killed", "by ana"),
        ("Assigned", "P0 · epoch 1"),
        ("Started", ""),
    ]
    facts = {fact["name"]: fact["value"] for fact in page.shown("facts", "vitals")["facts"]}
    assert (facts["Member id"], facts["Process"]) == ("m", "77 on h")


def test_the_page_without_workers_and_without_postgres(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings, "workers")
    assert page.shown("grid", "workers")["empty"] == {
        "title": "No workers in the last 24 hours",
        "hint": "Start one: `filemill run processor`.",
    }
    unreachable = open_page(settings.model_copy(update={"database_port": closed_port()}), "workers")
    assert unreachable.shown("grid", "workers")["empty"]["title"] == "No data yet"
    assert {tile["count"] for tile in unreachable.shown("filter_tiles", "states")["tiles"]} == {None}


@pytest.fixture
def stack(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[SupervisorCommand]:
    """A running stack with one processor; returns the commands that its supervisor receives."""
    process, received = ProcessRef.of(os.getpid()), list[SupervisorCommand]()
    worker = WorkerState(role="processor", id="processor-1", process=process, log="")
    servers: dict[str, str | int | float] = {"kafka_broker": settings.kafka_broker}
    write_state(
        StackState(
            home=str(settings.home), supervisor=process, started_at="", settings=servers, servers=[], workers=[worker]
        )
    )

    def send(_stack: StackState, command: SupervisorCommand) -> SupervisorResponse:
        received.append(command)
        return SupervisorResponse()

    monkeypatch.setattr(stack_workers, "send", send)
    return received


@pytest.mark.parametrize("action", ["stop", "kill"])
def test_a_worker_is_stopped_or_killed_only_after_a_confirmation_that_names_it(
    action: Literal["stop", "kill"],
    settings: Settings,
    engine: sa.Engine,
    open_page: OpenPage,
    stack: list[SupervisorCommand],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heartbeat(engine, "processor-1", owned=[0, 2], in_flight=3)
    pressed: list[tuple[str, str]] = [("processor-1", action)]

    def grid(key: str, *arguments: Any, on_action: Any = None, **options: Any) -> None:
        data_grid(key, *arguments, on_action=on_action, **options)
        if key == "workers" and pressed:
            on_action(*pressed.pop())

    monkeypatch.setattr("filemill_dashboard.components.grid.data_grid", grid)
    page = open_page(settings, "workers")
    page.run()
    assert stack == []
    facts = {fact["name"]: fact["value"] for fact in page.shown("facts", "signal-target")["facts"]}
    assert facts == {"Worker": "processor-1", "State": "busy", "Partitions": "P0, P2", "In flight": "3"}
    page.press(f"{action.capitalize()} processor-1")
    page.run()
    assert stack == [SupervisorCommand(action, worker="processor-1")]
    assert page.run().shown("notices", "worker-outcome")["notices"][0]["title"].startswith("processor-1 was ")
    with engine.connect() as connection:
        assert list(connection.execute(sa.select(Operation.action)).scalars()) == [f"stack.{action}"]


@pytest.mark.parametrize(
    ("error", "title", "noted"),
    [
        (CommandRejected("the worker has just ended"), "Command not executed", True),
        (Unavailable("the supervisor does not answer"), "Command not executed", True),
        (OutcomeUnknown("the supervisor did not confirm it"), "Outcome unknown", False),
    ],
)
def test_a_command_that_was_not_confirmed_claims_only_what_is_known(
    error: Exception,
    title: str,
    noted: bool,
    settings: Settings,
    engine: sa.Engine,
    open_page: OpenPage,
    stack: list[SupervisorCommand],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_arguments: object) -> SupervisorResponse:
        raise error

    monkeypatch.setattr(stack_workers, "send", fail)
    page = open_page(settings, "workers", worker="processor-1")
    page.app.session_state["scale-menu"] = True
    page.run().app.number_input(key="scale-count").set_value(3)
    page.run()
    page.press("Scale from 1 to 3")
    page.run()
    assert stack == []
    outcome = page.shown("notices", "worker-outcome")["notices"][0]
    assert (outcome["title"], outcome["text"]) == (title, str(error))
    with engine.connect() as connection:
        (entry,) = audit_entries(connection, timedelta(days=1))
    assert entry.detail.get("refused") == (str(error) if noted else None)


def test_no_command_is_sent_that_cannot_be_recorded(settings: Settings, stack: list[SupervisorCommand]) -> None:
    unreachable = bootstrap.create_engine(settings.model_copy(update={"database_port": closed_port()}), "test")
    running = running_stack(settings.home)
    assert running is not None
    with pytest.raises(Unavailable):
        stack_workers.send_supervisor_command(
            unreachable, running, SupervisorCommand("kill", worker="processor-1"), PAGE
        )
    unreachable.dispose()
    assert stack == []


@pytest.mark.usefixtures("sync_active")
def test_a_worker_that_stopped_long_ago_can_be_forgotten(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat(engine, "runs")
    heartbeat(engine, "just-died", ago=60)
    heartbeat(engine, "died", ago=3600)
    store_event(engine, "stopped", EventKind.STOPPED)
    shown = rows(open_page(settings, "workers"))
    actions = {name: [act["name"] for act in row["actions"]] for name, row in shown.items()}
    assert {name for name, names in actions.items() if names == ["forget"]} == {"died", "stopped"}
    pressed = [("died", "forget")]

    def grid(key: str, *arguments: Any, on_action: Any = None, **options: Any) -> None:
        data_grid(key, *arguments, on_action=on_action, **options)
        if key == "workers" and pressed:
            on_action(*pressed.pop())

    monkeypatch.setattr("filemill_dashboard.components.grid.data_grid", grid)
    page = open_page(settings, "workers")
    page.run()
    assert set(rows(page)) == {"runs", "just-died", "stopped"}
    assert page.shown("notices", "worker-outcome")["notices"][0]["title"] == "died: forgotten"


def test_a_cancelled_confirmation_stops_nothing(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, stack: list[SupervisorCommand]
) -> None:
    heartbeat(engine, "processor-1")
    page = open_page(settings, "workers")
    page.app.session_state["signal_requested"] = ("kill", "processor-1")
    page.run().app.button(key="signal-cancel-dialog").click()
    page.run()
    assert "danger-signal-go" not in {button.key for button in page.app.button}
    assert stack == []


def test_the_scale_menu_closes_after_its_action(
    settings: Settings, open_page: OpenPage, stack: list[SupervisorCommand]
) -> None:
    page = open_page(settings, "workers")
    page.app.session_state["scale-menu"] = True
    page.run().app.number_input(key="scale-count").set_value(3)
    page.run()
    assert page.app.session_state["scale-menu"] is True
    page.press("Scale from 1 to 3")
    page.run()
    assert stack == [SupervisorCommand("scale", role="processor", count=3)]
    assert page.app.session_state["scale-menu"] is False


def test_a_wrong_worker_clock_is_shown_and_does_not_distort_states(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    store_event(engine, "right", EventKind.HEARTBEAT, skew_seconds=0.05, vitals=Vitals())
    page = open_page(settings, "workers")
    assert "clock" not in {column["key"] for column in page.shown("grid", "workers")["columns"]}
    store_event(engine, "ahead", EventKind.HEARTBEAT, skew_seconds=6 * 3600.2, vitals=Vitals())
    store_event(engine, "behind", EventKind.HEARTBEAT, skew_seconds=-30, vitals=Vitals())
    page = open_page(settings, "workers")
    assert "clock" in {column["key"] for column in page.shown("grid", "workers")["columns"]}
    cells = {name: row["cells"] for name, row in rows(page).items()}
    assert {name: cell["clock"] for name, cell in cells.items()} == {
        "ahead": "6 h ahead",
        "behind": "30 s behind",
        "right": "correct",
    }
    assert {cell["state"][0] for cell in cells.values()} == {"idle"}
