"""A clock that jumps, in one processor alone."""

import os
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from filemill.config.settings import as_environment
from filemill.lab.clock import REMEDY, FakeClock, libfaketime
from filemill.lab.session import PipelineSession
from tests.integration.harness import PipelineHarness

MAX_POLL_SECONDS = 15
# S3 refuses requests whose time is off by a quarter of an hour: such a worker could do nothing until it is right again.
JUMP_SECONDS = 600
# libfaketime looks for a new time once a second.
SEEN_SECONDS = 1.2


@pytest.fixture
def clock(tmp_path: Path) -> FakeClock:
    if libfaketime() is None:
        if os.environ.get("CI"):
            pytest.fail(REMEDY)
        pytest.skip(REMEDY)
    return FakeClock(tmp_path / "clock")


@pytest.mark.timeout(240)
def test_a_clock_that_jumps_ahead_and_back_loses_nothing(harness: PipelineHarness, clock: FakeClock) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor", processing_seconds=0.5)
    environment = (
        as_environment(harness.settings)
        | clock.environment()
        | {
            "FILEMILL_LOG_FORMAT": "json",
            "FILEMILL_WORKER_ID": "skewed",
            "FILEMILL_PROCESSING_SECONDS": "0.5",
            "FILEMILL_MAX_POLL_INTERVAL_MS": str(MAX_POLL_SECONDS * 1000),
        }
    )
    skewed = harness.processes.run("skewed", [sys.executable, "-m", "filemill", "run", "processor"], environment)
    harness.wait_for_assignment(2, 1)
    jumped = False
    for ahead in (0, JUMP_SECONDS, -JUMP_SECONDS, 0):
        clock.jump(ahead)
        time.sleep(SEEN_SECONDS)
        ids = harness.submit(30)
        harness.wait_for(ids, seconds=4 * MAX_POLL_SECONDS)
        if not jumped:
            assert {harness.file(file_id).worker_id for file_id in ids} == {"processor-1", skewed.name}
        # A clock that goes back can hold up librdkafka's waits, which are against the time of day, for as long as it
        # went back: then the group does without that worker once it has not polled for too long. Nothing is lost by it.
        jumped = True
    moments = [datetime.fromisoformat(line["timestamp"]) for line in skewed.lines()]
    assert max(moments) - min(moments) > timedelta(seconds=JUMP_SECONDS / 2), "its clock never jumped"
    report = PipelineSession(harness.settings, harness.engine).check_invariants()
    assert report.ok, str(report)


def test_the_fake_clock_shows_the_requested_time(tmp_path: Path) -> None:
    clock = FakeClock(tmp_path / "clock")
    clock.jump(-90)
    assert (tmp_path / "clock").read_text() == "-90s\n"
