"""Every arm does its work, on real servers: none is fast because it does nothing, and none that does nothing passes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks import backlog, growth, limits, proofs
from benchmarks.arm import Arm, select_arms
from benchmarks.proofs import WorkIncomplete
from benchmarks.servers import IsolatedPipeline, isolated_pipeline
from filemill_infra.embedded.supervisor import Supervisor
from tests.servers import RunningServers

FILES = 40
ARMS = {arm.name: arm for arm in select_arms()}
POINTS = {point.name: point for point in growth.points()}
# One of each kind that is not an arm of the ratios too.
CHOSEN_POINTS = ("10,000 files beside a million rows", "partitions: 2", "workers: 2", "API, idle", "10,000 files")


# A world an arm: minutes in all.
pytestmark = pytest.mark.slow


@pytest.fixture
def embedded(servers: RunningServers) -> Supervisor:
    """The benchmarks measure the embedded servers."""
    if not isinstance(servers, Supervisor):
        pytest.skip("the benchmarks have embedded servers of their own")
    return servers


@pytest.fixture
def world(embedded: Supervisor) -> Iterator[IsolatedPipeline]:
    with isolated_pipeline(embedded) as world:
        yield world


def run(embedded: Supervisor, arm: Arm, **given: object) -> None:
    with isolated_pipeline(embedded, **{**arm.settings, **given}) as world:
        measured = arm.run(world, FILES)  # proves from outside that every file was done, or raises
    assert measured.files >= FILES
    assert measured.seconds > 0
    assert measured.rss_bytes > 10 * 2**20, "the memory of the arm's own processes was seen"


@pytest.mark.parametrize("name", sorted(ARMS))
def test_an_arm_does_all_of_its_work(embedded: Supervisor, name: str) -> None:
    if name.startswith("FastStream") and not os.environ.get("CI"):
        pytest.importorskip("faststream", reason="`make bench` and `make test` install it")
    run(embedded, ARMS[name])


@pytest.mark.parametrize("name", CHOSEN_POINTS)
def test_a_point_of_growth_does_all_of_its_work(embedded: Supervisor, name: str) -> None:
    run(embedded, POINTS[name])


def test_long_jobs_take_no_less_than_their_work(embedded: Supervisor) -> None:
    with isolated_pipeline(embedded, processing_seconds=2) as world:
        measured = growth.long_jobs(world, FILES)
    assert measured.seconds >= 2
    assert 0 < measured.figures["of_ideal"] <= 1


def test_requests_over_http_are_timed_while_the_pipeline_works(embedded: Supervisor) -> None:
    with isolated_pipeline(embedded) as world:
        measured = growth.api_busy(world, FILES)
    assert measured.files >= FILES
    assert 0 < measured.figures["p50_ms"] <= measured.figures["p99_ms"] <= measured.figures["greatest_ms"]


def test_rows_that_say_completed_without_objects_are_no_proof(world: IsolatedPipeline) -> None:
    backlog.insert_pending_rows(world, 3)
    world.execute(
        "UPDATE files SET status = 'completed', s3_location = 'file-' || id || '-' "
        "|| (extract(epoch FROM created_at) * 1000)::bigint || '.txt'"
    )
    with pytest.raises(WorkIncomplete, match="objects in the bucket: 0, not 3"):
        proofs.check_completed(world, 3)


def test_objects_with_other_bytes_are_no_proof(world: IsolatedPipeline) -> None:
    limits.put(world, 3)
    keys = [key.removesuffix(".txt").split("-") for key in proofs.etags(world)]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    asked = [(int(number), "Another title", "", epoch + timedelta(milliseconds=int(ms))) for _, number, ms in keys]
    assert len(asked) == 3
    with pytest.raises(WorkIncomplete, match="objects that are not what was asked for"):
        proofs.check_objects(world, asked)


def test_a_run_from_the_command_line_leaves_samples_plots_and_promises(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "ratios", "--only", "raw", "--rounds", "2", "--scale", "0.001"]
    ended = subprocess.run([*command, "--results", tmp_path], capture_output=True, text=True, check=False, timeout=110)
    assert ended.returncode == 0, ended.stderr
    samples = json.loads((tmp_path / "ratios.json").read_text())["samples"]
    raw = [name for name in ARMS if name.startswith("raw")]
    assert [sorted(one["arm"] for one in samples if one["round"] == number) for number in (1, 2)] == [sorted(raw)] * 2
    assert json.loads((tmp_path / "latest.json").read_text()) == [], "no promise is of raw limits alone"
    assert "raw put" in (tmp_path / "ratios.html").read_text()


def test_an_arm_that_leaves_work_undone_is_refused(world: IsolatedPipeline) -> None:
    backlog.insert_requests(world, 5)
    with pytest.raises(WorkIncomplete, match="rows in files: 12, not 7"):
        limits.insert_unnest(world, 7)
