"""Clocks that are six hours off, each in another process: what is read stays right, and tells of them."""

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
from filemill.domain.worker_events import DEAD_AFTER_SECONDS, Condition, Kind, WorkerEvent
from filemill.lab.clock import REMEDY, FakeClock, libfaketime
from filemill.queries.group import overview
from filemill.queries.performance import performance
from filemill.queries.workers import WorkerView, list_workers
from tests.integration import topics
from tests.integration.processes import Process, wait_until
from tests.integration.world import World

HOURS = 6
# The database's clock and this process's are one; a read takes its time.
TOLERANCE = timedelta(seconds=60)


@pytest.fixture
def clock(tmp_path: Path) -> FakeClock:
    """Right at first: librdkafka does not start with a clock that is far off under libfaketime."""
    if libfaketime() is None:
        if os.environ.get("CI"):
            pytest.fail(REMEDY)
        pytest.skip(REMEDY)
    return FakeClock(tmp_path / "clock")


def start(world: World, clock: FakeClock, role: str) -> Process:
    environment = as_environment(world.settings) | clock.environment()
    environment |= {"FILEMILL_LOG_FORMAT": "json", "FILEMILL_WORKER_ID": f"{role}-off"}
    member = world.crew.run(f"{role}-off", [sys.executable, "-m", "filemill", "run", role], environment)
    world.wait_for_process(member, role)
    return member


def command(world: World, clock: FakeClock, *arguments: str) -> Any:
    """What a command of the CLI prints as JSON, with its clock off."""
    name = f"cli-{len(world.crew.members)}"
    asked = world.crew.run(
        name,
        [sys.executable, "-m", "filemill", *arguments, "--json"],
        {**as_environment(world.settings), **clock.environment()},
    )
    assert asked.stopped(60) == 0, asked.tail()
    return msgspec.json.decode(asked.log.read_bytes())


def workers(world: World) -> dict[str, WorkerView]:
    with world.engine.connect() as connection:
        return {worker.id: worker for worker in list_workers(connection)}


def now(world: World) -> datetime:
    with world.engine.connect() as connection:
        moment: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return moment


@pytest.mark.timeout(240)
def test_files_workers_and_samples_are_dated_by_the_database(world: World, clock: FakeClock, tmp_path: Path) -> None:
    began = now(world)
    world.host("sync")  # it has no use for a time of day: tests/unit/test_dating.py
    world.start("processor")
    for role in ("relay", "monitor"):
        start(world, clock, role)
    ahead = start(world, clock, "processor")
    world.wait_for_shares(2, 1)
    clock.jump(HOURS * 3600)
    behind = FakeClock(tmp_path / "behind")
    behind.jump(-HOURS * 3600)
    submitted: list[int] = []
    for one in (clock, behind):
        submitted += command(world, one, "submit", "A file", "--count", "5")["ids"]

    # A worker with such a clock is refused by S3, and speaks over Kafka nevertheless. For one that is behind a record
    # stands in: under libfaketime, librdkafka's waits would last as long as the clock is behind.
    claim = now(world) - timedelta(hours=HOURS)
    event = WorkerEvent(kind=Kind.HEARTBEAT, worker_id="behind", timestamp=claim)
    topics.publish(world.settings, world.settings.topic_worker_events, [msgspec.json.encode(event)])
    for hours, name in {HOURS: ahead.name, -HOURS: "behind"}.items():

        def off(name: str = name, hours: int = hours) -> bool:
            view = workers(world).get(name)
            return view is not None and view.skew_seconds == pytest.approx(hours * 3600, abs=60)

        wait_until(off, 15, f"the clock of {name} is seen to be off")
        view = workers(world)[name]
        assert view.condition not in (Condition.DEAD, Condition.STOPPED)
        assert view.heard_seconds_ago < DEAD_AFTER_SECONDS
    straight = workers(world)["processor-1"]
    assert abs(straight.skew_seconds or 0) < TOLERANCE.total_seconds()
    listed = command(world, clock, "workers", "list")
    assert all(one["condition"] != "dead" for one in listed if one["id"] == straight.id)

    ahead.kill()

    def dead() -> bool:
        return all(workers(world)[name].condition is Condition.DEAD for name in (ahead.name, "behind"))

    wait_until(dead, DEAD_AFTER_SECONDS + 15, "both count as dead, whatever they had said of the time")
    world.wait_for(submitted)

    def sampled() -> bool:
        with world.engine.connect() as connection:
            return all(connection.execute(sa.select(sa.exists(table))).scalar() for table in (LagSample, GroupSample))

    wait_until(sampled, 40, "the monitor has taken a sample")
    moments = [File.created_at, File.started_at, File.finished_at, File.updated_at, WorkerEventRow.at, Worker.heard_at]
    moments += [LagSample.sampled_at, GroupSample.sampled_at, OutboxSample.sampled_at]
    with world.engine.connect() as connection:
        for moment in moments:
            least, greatest = connection.execute(sa.select(sa.func.min(moment), sa.func.max(moment))).one()
            assert least is not None
            assert greatest is not None
            assert began - TOLERANCE < least <= greatest <= now(world), str(moment)
        assert performance(connection, timedelta(minutes=5)).as_of >= began
        assert overview(connection, world.settings.kafka_group).as_of >= began
    for file_id in submitted:
        row = world.file(file_id)
        assert row.started_at is not None
        assert row.finished_at is not None
        assert row.created_at - timedelta(seconds=1) <= row.started_at <= row.finished_at
    world.assert_clean()
