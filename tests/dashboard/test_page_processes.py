"""Starts and ends of servers and workers on Workers, Pipeline and the page of a file."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.config.settings import Settings
from filemill.domain.files import new_file
from filemill.runtime.process_history import PROCESSES_FILE, ProcessChange, ProcessStep
from filemill.runtime.stack_state import ProcessRef, ServerState, StackState, WorkerState, write_state
from filemill_dashboard.views.process_story import ends_of, process_summary, shared_steps
from filemill_infra.embedded.process_journal import ProcessJournal
from filemill_infra.embedded.processes.workers import ProcessEvent
from tests.dashboard.conftest import OpenPage, Page

OWN = ProcessRef.of(os.getpid())


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with the home of a stack that this process seems to run."""
    return settings.model_copy(update={"home": tmp_path})


def _stack(settings: Settings, kafka: ProcessRef, worker: ProcessRef) -> StackState:
    return StackState(
        home=str(settings.home),
        supervisor=OWN,
        started_at="",
        settings={"kafka_broker": settings.kafka_broker},
        servers=[ServerState(name="kafka", address="", version="", process=kafka, log="")],
        workers=[
            WorkerState(role="sync", id="sync-1", process=OWN, log=""),
            WorkerState(role="processor", id="processor-1", process=worker, log=""),
        ],
    )


def _restart(settings: Settings) -> None:
    """Kafka and a processor end and are started again."""
    journal, other = ProcessJournal(settings.home / PROCESSES_FILE), ProcessRef(pid=1, created=1.0)
    journal.observe(_stack(settings, other, other))
    for name in ("kafka", "processor-1"):
        journal.report(ProcessEvent(kind="died", name=name, text=f"{name} ended by signal 9"))
    running = _stack(settings, OWN, OWN)
    journal.observe(running)
    write_state(running)


def _titles(page: Page, key: str) -> list[str]:
    return [step["title"] for step in page.shown("timeline", key)["steps"]]


def test_restarts_are_in_the_timelines_of_workers_and_of_a_file_and_on_the_charts(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    with engine.begin() as connection:
        (file_id,) = insert_many(connection, [new_file("waits")])
        connection.execute(sa.text("UPDATE files SET created_at = now() - interval '1 minute'"))
    _restart(settings)
    workers = open_page(settings, "workers")
    assert set(_titles(workers, "processes")) == {
        "Kafka started",
        "Kafka ended unexpectedly",
        "Kafka restarted",
        "Status sync (sync-1) started",
        "processor-1 started",
        "processor-1 ended unexpectedly",
        "processor-1 restarted",
    }
    file = open_page(settings, "file", id=str(file_id))
    assert _titles(file, "timeline") == [
        "Accepted",
        "Kafka started",
        "Status sync (sync-1) started",
        "Kafka ended unexpectedly",
        "Kafka restarted",
    ]
    pipeline = open_page(settings, "pipeline")
    notes = [one["text"] for one in pipeline.shown("chart", "lag")["annotations"]]
    assert [note for note in notes if note.startswith("Kafka")] == [
        "Kafka started",
        "Kafka ended unexpectedly",
        "Kafka restarted",
    ]


def test_a_file_shows_only_what_happened_to_shared_processes_meanwhile() -> None:
    now = time.time()
    steps = [
        ProcessStep(at=now - 30, change=ProcessChange.STARTED, name="kafka", role="kafka"),
        ProcessStep(at=now - 10, change=ProcessChange.ENDED, name="monitor-1", role="monitor"),
        ProcessStep(at=now - 10, change=ProcessChange.ENDED, name="processor-1", role="processor"),
        ProcessStep(at=now, change=ProcessChange.STOPPED, name="relay-1", role="relay"),
    ]
    at = datetime.fromtimestamp(now, UTC)
    found = shared_steps(steps, at - timedelta(seconds=20), at - timedelta(seconds=5))
    assert [process_summary(step) for step in found] == ["Group monitor (monitor-1) ended unexpectedly"]
    assert [step.name for step in ends_of(steps, "processor-1")] == ["processor-1"]
    assert process_summary(steps[3]) == "Relay (relay-1) stopped"
