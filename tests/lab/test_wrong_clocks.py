"""Processes with clocks that are six hours off: stored times stay correct, and the skew is reported."""

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import (
    File,
    GroupSample,
    LagSample,
    OutboxSample,
    Worker,
    WorkerEventRow,
)
from filemill.config.settings import as_environment
from filemill.domain.worker_events import DEAD_AFTER_SECONDS, EventKind, WorkerCondition, WorkerEvent
from filemill.lab.clock import REMEDY, FakeClock, libfaketime
from filemill.queries.overview import overview
from filemill.queries.performance import performance
from filemill.queries.workers import WorkerView, list_workers
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import Process, wait_until

HOURS = 6
# The database and this process share a clock; a read takes some time.
TOLERANCE = timedelta(seconds=60)


@pytest.fixture
def clock(tmp_path: Path) -> FakeClock:
    """A clock that is correct at first: librdkafka does not start with a large skew under libfaketime."""
    if libfaketime() is None:
        if os.environ.get("CI"):
            pytest.fail(REMEDY)
        pytest.skip(REMEDY)
    return FakeClock(tmp_path / "clock")


def start(harness: PipelineHarness, clock: FakeClock, role: str) -> Process:
    environment = as_environment(harness.settings) | clock.environment()
    environment |= {"FILEMILL_LOG_FORMAT": "json", "FILEMILL_WORKER_ID": f"{role}-off"}
    process = harness.processes.run(f"{role}-off", [sys.executable, "-m", "filemill", "run", role], environment)
    harness.wait_for_process(process, role)
    return process


def command(harness: PipelineHarness, clock: FakeClock, *arguments: str) -> Any:
    """The JSON output of a CLI command with this clock."""
    name = f"cli-{len(harness.processes.processes)}"
    process = harness.processes.run(
        name,
        [sys.executable, "-m", "filemill", *arguments, "--json"],
        {**as_environment(harness.settings), **clock.environment()},
    )
    assert process.wait_for_exit(60) == 0, process.tail()
    return msgspec.json.decode(process.log.read_bytes())


def workers(harness: PipelineHarness) -> dict[str, WorkerView]:
    with harness.engine.connect() as connection:
        return {worker.id: worker for worker in list_workers(connection)}


def now(harness: PipelineHarness) -> datetime:
    with harness.engine.connect() as connection:
        moment: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return moment


@pytest.mark.timeout(240)
def test_files_workers_and_samples_are_dated_by_the_database(
    harness: PipelineHarness, clock: FakeClock, tmp_path: Path
) -> None:
    began = now(harness)
    harness.run_in_threads("sync")  # it has no use for a time of day: tests/unit/test_record_time.py
    harness.start("processor")
    for role in ("relay", "monitor"):
        start(harness, clock, role)
    ahead = start(harness, clock, "processor")
    harness.wait_for_assignment(2, 1)
    clock.jump(HOURS * 3600)
    behind = FakeClock(tmp_path / "behind")
    behind.jump(-HOURS * 3600)
    submitted: list[int] = []
    for one in (clock, behind):
        submitted += command(harness, one, "submit", "A file", "--count", "5")["ids"]

    # A worker with such a clock is refused by S3, and speaks over Kafka nevertheless. For one that is behind a record
    # stands in: under libfaketime, librdkafka's waits would last as long as the clock is behind.
    claim = now(harness) - timedelta(hours=HOURS)
    event = WorkerEvent(kind=EventKind.HEARTBEAT, worker_id="behind", timestamp=claim)
    topics.publish(harness.settings, harness.settings.topic_worker_events, [msgspec.json.encode(event)])
    for hours, name in {HOURS: ahead.name, -HOURS: "behind"}.items():

        def off(name: str = name, hours: int = hours) -> bool:
            view = workers(harness).get(name)
            return view is not None and view.skew_seconds == pytest.approx(hours * 3600, abs=60)

        wait_until(off, 15, f"the clock of {name} is seen to be off")
        view = workers(harness)[name]
        assert view.condition not in (WorkerCondition.DEAD, WorkerCondition.STOPPED)
        assert view.heard_seconds_ago < DEAD_AFTER_SECONDS
    straight = workers(harness)["processor-1"]
    assert abs(straight.skew_seconds or 0) < TOLERANCE.total_seconds()
    assert straight.condition is not WorkerCondition.DEAD

    ahead.kill()

    def dead() -> bool:
        return all(workers(harness)[name].condition is WorkerCondition.DEAD for name in (ahead.name, "behind"))

    wait_until(dead, DEAD_AFTER_SECONDS + 15, "both count as dead, whatever they had said of the time")
    harness.wait_for(submitted)

    def sampled() -> bool:
        with harness.engine.connect() as connection:
            return all(connection.execute(sa.select(sa.exists(table))).scalar() for table in (LagSample, GroupSample))

    wait_until(sampled, 40, "the monitor has taken a sample")
    moments = [File.created_at, File.started_at, File.finished_at, File.updated_at, WorkerEventRow.at, Worker.heard_at]
    moments += [LagSample.sampled_at, GroupSample.sampled_at, OutboxSample.sampled_at]
    with harness.engine.connect() as connection:
        for moment in moments:
            least, greatest = connection.execute(sa.select(sa.func.min(moment), sa.func.max(moment))).one()
            assert least is not None
            assert greatest is not None
            assert began - TOLERANCE < least <= greatest <= now(harness), str(moment)
        assert performance(connection, timedelta(minutes=5)).as_of >= began
        assert overview(connection, harness.settings.kafka_group).as_of >= began
    for file_id in submitted:
        row = harness.file(file_id)
        assert row.started_at is not None
        assert row.finished_at is not None
        assert row.created_at - timedelta(seconds=1) <= row.started_at <= row.finished_at
    harness.assert_clean()
