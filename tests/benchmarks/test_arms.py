"""Every arm does its work on real servers, and an arm that does not do its work fails."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks import backlog, growth, limits, proofs
from benchmarks.arm import Arm
from benchmarks.catalog import select_arms
from benchmarks.proofs import WorkIncomplete
from benchmarks.servers import IsolatedPipeline, isolated_pipeline
from filemill_infra.embedded.supervisor import Supervisor
from tests.servers import RunningServers

FILES = 40
ARMS = {arm.name: arm for arm in select_arms()}
POINTS = {point.name: point for point in growth.points()}
# One of each kind that no arm of the ratios covers.
CHOSEN_POINTS = (
    "10,000 files beside a million rows",
    "partitions: 2",
    "workers: 2",
    "API, idle",
    "10,000 files",
    "result of 5 GiB",
)


# A pipeline per arm: minutes in all.
pytestmark = pytest.mark.slow(reason="runs each benchmark once, which takes minutes")


@pytest.fixture
def embedded(servers: RunningServers) -> Supervisor:
    """The embedded servers, which the benchmarks measure."""
    if not isinstance(servers, Supervisor):
        pytest.skip("the benchmarks have embedded servers of their own")
    return servers


@pytest.fixture
def pipeline(embedded: Supervisor) -> Iterator[IsolatedPipeline]:
    with isolated_pipeline(embedded) as pipeline:
        yield pipeline


def run(embedded: Supervisor, arm: Arm, **given: object) -> None:
    with isolated_pipeline(embedded, **{**arm.settings, **given}) as pipeline:
        measured = arm.run(pipeline, FILES)  # raises unless every file was completed
    assert measured.files >= FILES
    assert measured.seconds > 0
    assert measured.rss_bytes > 10 * 2**20, "the memory of the arm's processes was measured"


@pytest.mark.parametrize("name", sorted(ARMS))
def test_an_arm_does_all_its_work(embedded: Supervisor, name: str) -> None:
    if name.startswith("FastStream") and not os.environ.get("CI"):
        pytest.importorskip("faststream", reason="`make bench` and `make test` install it")
    run(embedded, ARMS[name])


@pytest.mark.parametrize("name", CHOSEN_POINTS)
def test_a_growth_point_does_all_its_work(embedded: Supervisor, name: str) -> None:
    run(embedded, POINTS[name])


def test_long_jobs_take_at_least_their_processing_time(embedded: Supervisor) -> None:
    with isolated_pipeline(embedded, processing_seconds=2) as pipeline:
        measured = growth.long_jobs(pipeline, FILES)
    assert measured.seconds >= 2
    assert 0 < measured.figures["of_ideal"] <= 1


def test_http_requests_are_timed_under_load(embedded: Supervisor) -> None:
    with isolated_pipeline(embedded) as pipeline:
        measured = growth.api_busy(pipeline, FILES)
    assert measured.files >= FILES
    assert 0 < measured.figures["p50_ms"] <= measured.figures["p99_ms"] <= measured.figures["greatest_ms"]


def test_completed_rows_without_objects_are_no_proof(pipeline: IsolatedPipeline) -> None:
    backlog.insert_pending_rows(pipeline, 3)
    pipeline.execute(
        "UPDATE files SET status = 'completed', s3_location = 'file-' || id || '-' "
        "|| (extract(epoch FROM created_at) * 1000)::bigint || '.txt'"
    )
    with pytest.raises(WorkIncomplete, match="objects in the bucket: 0, not 3"):
        proofs.check_completed(pipeline, 3)


def test_objects_with_other_bytes_are_no_proof(pipeline: IsolatedPipeline) -> None:
    limits.put(pipeline, 3)
    keys = [key.removesuffix(".txt").split("-") for key in proofs.object_hashes(pipeline)]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    asked = [(int(number), "Another title", "", epoch + timedelta(milliseconds=int(ms))) for _, number, ms in keys]
    assert len(asked) == 3
    with pytest.raises(WorkIncomplete, match="objects that differ from the request"):
        proofs.check_objects(pipeline, asked)


def test_a_run_from_the_command_line_saves_samples_plots_and_targets(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "ratios", "--only", "raw", "--rounds", "2", "--scale", "0.001"]
    ended = subprocess.run([*command, "--results", tmp_path], capture_output=True, text=True, check=False, timeout=110)
    assert ended.returncode == 0, ended.stderr
    assert "No targets were measured." in ended.stdout + ended.stderr
    samples = json.loads((tmp_path / "ratios.json").read_text())["samples"]
    raw = [name for name in ARMS if name.startswith("raw")]
    assert [sorted(one["arm"] for one in samples if one["round"] == number) for number in (1, 2)] == [sorted(raw)] * 2
    assert json.loads((tmp_path / "latest.json").read_text()) == [], "no target is about raw limits only"
    assert "raw put" in (tmp_path / "ratios.html").read_text()


def test_an_arm_with_incomplete_work_fails(pipeline: IsolatedPipeline) -> None:
    backlog.insert_requests(pipeline, 5)
    with pytest.raises(WorkIncomplete, match="rows in files: 12, not 7"):
        limits.insert_unnest(pipeline, 7)
