"""The Experiments page."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import Operation
from filemill.config.settings import Settings
from filemill.queries.history import audit_entries
from filemill.runtime.journal import Journal, JournalEntry
from filemill.runtime.stack_state import FAULTS_FILE, ProcessRef, ServerState, StackState, WorkerState
from filemill.runtime.supervisor_client import SupervisorCommand
from filemill.services import faults
from filemill.services.audit import record
from filemill_dashboard.components.chart_annotations import annotations_of
from filemill_dashboard.state import page_data
from filemill_infra.embedded.control import ControlServer
from tests.dashboard.conftest import OpenPage, Page, closed_port
from tests.principals import PAGE
from tests.runs import planted


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def settings(settings: Settings, results: Path) -> Settings:
    return settings.model_copy(update={"results": results})


def rows(page: Page, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.shown("grid", key)["rows"]
    return found


def test_without_runs_the_page_shows_how_to_create_one(settings: Settings, results: Path, open_page: OpenPage) -> None:
    page = open_page(settings, "experiments")
    empty = page.shown("grid", "runs")["empty"]
    assert empty["title"] == "No lab runs yet"
    assert "make soak" in empty["hint"]
    assert str(results) in empty["hint"]


def test_runs_are_listed_with_verdict_measures_and_problems(
    settings: Settings, results: Path, open_page: OpenPage
) -> None:
    planted(results, "good", files_per_second=50.0)
    planted(results, "bad", ok=False)
    (results / "soak-20261122-120000-7").mkdir()
    page = open_page(settings, "experiments")
    found = {row["cells"]["run"].split("-")[0]: row for row in rows(page, "runs")}
    assert [found[name]["cells"]["verdict"][0] for name in ("good", "bad", "soak")] == [
        "passed",
        "failed",
        "unreadable",
    ]
    assert found["good"]["cells"]["files_per_second"] == 50.0
    assert found["good"]["cells"]["parameters"] == "workers 3"
    assert found["soak"]["titles"]["verdict"] == "run.json is missing; verdict.json is missing; the summary is missing"
    assert found["good"]["actions"][0]["disabled_reason"].startswith("Select a run first")


def test_two_runs_are_overlaid_and_both_are_in_the_url(settings: Settings, results: Path, open_page: OpenPage) -> None:
    first, second = planted(results, "first"), planted(results, "second", files_per_second=20.0, only_here=1.0)
    page = open_page(settings, "experiments", run=first.folder.name, **{"with": second.folder.name})
    chart = page.shown("chart", "course")
    assert chart["elapsed"]
    assert [trace["name"] for trace in chart["figure"]["data"]] == [
        f"A · {first.folder.name}",
        f"B · {second.folder.name}",
    ]
    assert chart["figure"]["data"][0]["y"] == [10, 10, 10]
    assert [(mark["at_ms"], mark["until_ms"]) for mark in chart["annotations"]] == [(1.0, 2.5)]
    measures = {row["cells"]["name"]: row["cells"] for row in rows(page, "measures")}
    assert measures["files per second"] == {"name": "files per second", "a": "10", "b": "20", "change": "+100.0 %"}
    assert measures["only here"]["a"] is None
    assert [row["cells"]["verdict"][0] for row in rows(page, "invariants")] == ["holds"]
    assert [row["cells"]["event"] for row in rows(page, "run-journal")] == ["kafka killed"]


def test_a_single_run_and_a_series_from_the_url(settings: Settings, results: Path, open_page: OpenPage) -> None:
    run = planted(results, "one").folder.name
    page = open_page(settings, "experiments", run=run, series="Unfinished requests")
    (trace,) = page.shown("chart", "course")["figure"]["data"]
    assert max(trace["y"]) == 10


@pytest.mark.parametrize("name", ["gone-20260101-000000-1", "..", "../results", "/etc", "<img src=x>"])
def test_an_unknown_run_shows_a_notice(name: str, settings: Settings, results: Path, open_page: OpenPage) -> None:
    planted(results, "one")
    page = open_page(settings, "experiments", run=name, **{"with": name})
    assert page.notices("no-run")[0]["title"] == "Run not found"


def test_a_damaged_run_shows_its_readable_parts(settings: Settings, results: Path, open_page: OpenPage) -> None:
    folder = planted(results, "hurt").folder
    for part in folder.iterdir():
        part.write_bytes(b"\x00garbage")
    page = open_page(settings, "experiments", run=folder.name)
    assert page.notices("run-notice")[0]["title"] == "Incomplete run"
    assert page.shown("chart", "course")["message"] == "this series was not recorded"
    assert page.shown("grid", "invariants")["empty"]["title"] == "No verdict yet"


def test_hostile_parameters_are_shown_as_text(settings: Settings, results: Path, open_page: OpenPage) -> None:
    title = "<img src=x onerror=alert(1)> ｛\x1b[31m｝" + "x" * 5000
    folder = planted(results, "odd", parameters={title: [title], "n": {"deep": [1]}}).folder
    page = open_page(settings, "experiments", run=folder.name)
    shown = json.dumps(page.shown("facts", "parameters")["facts"])
    assert "<img src=x" in shown  # text, which the component sets as such
    assert all("<img" not in element.value for element in page.app.markdown)


def stack_of(home: Path, control: str | None, settings: Settings) -> StackState:
    process = ProcessRef.of(1)
    servers = [
        ServerState(name=name, address="", version="", process=process, log="") for name in ("kafka", "postgres", "s3")
    ]
    workers = [
        WorkerState(role=role, id=f"{role}-1", process=process, log="") for role in ("dashboard", "processor", "sync")
    ]
    return StackState(
        home=str(home),
        supervisor=process,
        started_at="",
        settings={"kafka_broker": settings.kafka_broker},
        servers=servers,
        workers=workers,
        control=control,
    )


class FakeSupervisor:
    """A fake supervisor that records the faults that it receives."""

    def __init__(self) -> None:
        self.received: list[SupervisorCommand] = []
        self.refusal = ""

    def scale(self, role: str, count: int) -> list[str]:
        raise AssertionError((role, count))

    def stop_worker(self, worker_id: str) -> None:
        raise AssertionError(worker_id)

    kill_worker = stop_worker

    def inject_fault(self, kind: Any, target: str, seconds: float, key: str) -> None:
        if self.refusal:
            raise ValueError(self.refusal)
        self.received.append(SupervisorCommand("fault", fault=kind, target=target, seconds=seconds, key=key))

    def end_fault(self, target: str) -> None:
        self.received.append(SupervisorCommand("end-fault", target=target))


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path) -> Any:
    """A stack with a fake supervisor."""
    supervisor = FakeSupervisor()
    control = ControlServer(supervisor)
    control.open()
    stack = stack_of(tmp_path, control.address, settings)
    monkeypatch.setattr("filemill_dashboard.state.services.running_stack", lambda _home: stack)
    yield supervisor
    control.close()


def test_without_a_stack_each_fault_gives_the_reason_why_it_is_disabled(
    settings: Settings, tmp_path: Path, open_page: OpenPage
) -> None:
    page = open_page(settings.model_copy(update={"home": tmp_path}), "experiments", part="Faults")
    offered = rows(page, "offers")
    assert [row["key"] for row in offered] == [
        f"{kind}:{server}" for server in ("kafka", "postgres", "s3") for kind in ("killed", "stopped")
    ]
    assert all("does not belong to an embedded stack" in row["actions"][0]["disabled_reason"] for row in offered)


def press(page: Page, key: str, row: str) -> None:
    """Send what the browser sends for the button of a row."""
    stack = page_data.current().stack()
    offer = next(one for one in faults.fault_options(stack, []) if one.key == row)
    page.app.session_state["fault_requested"] = offer
    assert key == "offers"
    page.run()


def test_a_fault_is_confirmed_injected_and_recorded(
    supervisor: FakeSupervisor, settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    page = open_page(settings, "experiments", part="Faults")
    offered = {row["key"]: row for row in rows(page, "offers")}
    assert "killed:dashboard-1" not in offered
    assert {row["actions"][0]["disabled_reason"] for row in offered.values()} == {""}
    press(page, "offers", "stopped:kafka")
    page.app.number_input(key="fault-seconds").set_value(7)
    page.run()
    assert page.app.button(key="fault-go").label == "Stop Kafka"
    page.app.button(key="fault-go").click()
    page.run()
    (command,) = supervisor.received
    assert (command.fault, command.target, command.seconds) == ("stopped", "kafka", 7)
    with engine.connect() as connection:
        (act,) = connection.execute(sa.select(Operation.actor, Operation.action, Operation.detail)).all()
    assert (act.actor, act.action) == ("page", "fault")
    assert act.detail == {"fault": "stopped", "target": "kafka", "seconds": 7.0, "key": command.key}


def test_a_rejected_fault_shows_the_reason_and_no_annotation(
    supervisor: FakeSupervisor, settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    supervisor.refusal = "kafka has a fault already"
    page = open_page(settings, "experiments", part="Faults")
    press(page, "offers", "killed:kafka")
    page.app.button(key="fault-go").click()
    page.run()
    assert page.notices("fault-refused")[0]["text"] == "kafka has a fault already"
    with engine.connect() as connection:
        (act,) = audit_entries(connection, timedelta(days=1))
    assert act.detail["refused"] == "kafka has a fault already"
    assert annotations_of([act]) == []


def test_the_journal_shows_active_faults_and_the_audit_log_gets_their_end(
    supervisor: FakeSupervisor, settings: Settings, engine: sa.Engine, tmp_path: Path, open_page: OpenPage
) -> None:
    journal = Journal(tmp_path / FAULTS_FILE)
    with engine.begin() as connection:
        record(connection, PAGE, "fault", {"fault": "killed", "target": "s3", "seconds": 60.0, "key": "k"})
    with journal.record_interval("fault", "s3 killed", "s3", key="k", seconds=60.0):
        page = open_page(settings, "experiments", part="Faults")
        (entry,) = rows(page, "fault-journal")
        assert entry["cells"]["event"] == "s3 killed (active)"
        assert {row["key"]: row["actions"][0]["disabled_reason"] for row in rows(page, "offers")}["killed:s3"] != ""
    stack = page_data.current().stack()
    assert stack is not None
    recorder = faults.FaultEndRecorder()
    for _ in range(2):
        recorder.record(engine, faults.journal_of(stack))
    with engine.connect() as connection:
        (act,) = audit_entries(connection, timedelta(days=1))
    (mark,) = annotations_of([act])
    assert mark.until_ms is not None
    assert mark.until_ms == 1000 * act.detail["ended"]
    assert mark.until_ms < mark.at_ms + 30_000
    page = open_page(settings, "pipeline")
    assert page.shown("chart", "lag")["annotations"][0]["text"] == "s3 killed for 60 s · page"


def test_a_fault_that_its_stack_did_not_survive_is_not_active(
    supervisor: FakeSupervisor, settings: Settings, tmp_path: Path, open_page: OpenPage
) -> None:
    del supervisor
    stack = stack_of(tmp_path, None, settings)
    entry = JournalEntry(kind="fault", name="s3 killed", target="s3", began=stack.supervisor.created - 60)
    line = {"moment": "begin", **msgspec.to_builtins(entry)}
    (tmp_path / FAULTS_FILE).write_text(json.dumps(line) + "\n")
    page = open_page(settings, "experiments", part="Faults")
    assert [row["cells"]["event"] for row in rows(page, "fault-journal")] == ["s3 killed (no end recorded)"]
    assert {row["actions"][0]["disabled_reason"] for row in rows(page, "offers")} == {""}


def test_the_page_works_while_all_servers_are_unreachable(
    settings: Settings, results: Path, open_page: OpenPage
) -> None:
    planted(results, "one")
    closed = {"database_port": closed_port(), "kafka_broker": f"127.0.0.1:{closed_port()}"}
    unreachable = settings.model_copy(update={**closed, "server_timeout_seconds": 1.0})
    page = open_page(unreachable, "experiments")
    assert len(rows(page, "runs")) == 1
