"""Limits of one processor: records in progress, duration of jobs, time to stop."""

import time

import psutil
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File
from filemill.lab.load import unfinished
from tests.integration import topics
from tests.integration.audit import audit_commits
from tests.integration.harness import PipelineHarness
from tests.integration.processes import Process, wait_until

DRAIN_SECONDS = 4.0


def in_flight(worker: Process, harness: PipelineHarness, ids: list[int]) -> int:
    rows = [harness.file(file_id) for file_id in ids]
    return sum(row.status == "processing" and row.worker_id == worker.name for row in rows)


def test_sigterm_with_500_records_ends_in_time_and_repeats_no_finished_one(
    harness: PipelineHarness,
) -> None:
    harness.run_in_threads("relay", "sync")
    given = {"processing_seconds": 3, "processing_steps": 3, "drain_seconds": DRAIN_SECONDS}
    (first,) = harness.start("processor", **given)
    ids = harness.submit(500)
    wait_until(lambda: list(harness.statuses(ids).values()).count("processing") == 500, 20, "500 are in flight")
    # These finish within the drain; records that arrive now stay unfinished.
    late = harness.submit(100)
    wait_until(lambda: "processing" in harness.statuses(late).values(), 20, "more are taken in")
    asked_at = time.monotonic()
    assert first.terminate(DRAIN_SECONDS + 10) == 0, first.tail()
    assert time.monotonic() - asked_at < DRAIN_SECONDS + 5
    harness.start("processor", processing_seconds=0)
    harness.wait_for([*ids, *late])
    results = harness.results()
    assert {file_id: len(results[file_id]) for file_id in ids} == dict.fromkeys(ids, 1)
    harness.assert_clean()
    assert audit_commits(harness, harness.processes.processes) > 0


def wait_for_work(harness: PipelineHarness, worker: Process, ids: list[int]) -> list[int]:
    """Wait until the rows show that this worker processes some of these files; returns their ids."""

    def held() -> list[int]:
        rows = [harness.file(file_id) for file_id in ids]
        return [row.id for row in rows if row.status == "processing" and row.worker_id == worker.name]

    return wait_until(held, 20, f"{worker.name} holds a file")


def test_sigterm_leaves_long_jobs_to_another_worker_at_once(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (first,) = harness.start("processor", processing_seconds=60)
    ids = harness.submit(9)
    wait_for_work(harness, first, ids)
    asked_at = time.monotonic()
    assert first.terminate(10) == 0, first.tail()
    assert time.monotonic() - asked_at < 3, "it waited for jobs that could not finish in time"
    assert topics.committed(harness.settings) == {}
    harness.start("processor", processing_seconds=0)
    harness.wait_for(ids)
    harness.assert_clean()


def test_new_partitions_of_a_full_processor_do_not_stop_the_others(harness: PipelineHarness) -> None:
    harness.run_in_threads("sync")
    harness.start("processor", "processor", processing_seconds=4, processing_steps=4, concurrency=8)
    shares = harness.wait_for_assignment(2, 1)
    full, leaving = sorted(harness.processes.processes, key=lambda member: len(shares[member.name]))
    (partition,) = shares[full.name]
    # It pauses with the eighth record, and does not resume when only one has finished.
    early = harness.publish_requests(partition, 1)
    wait_until(lambda: (harness.file(early[0]).step or 0) >= 2, 20, "the first is half done")
    late = harness.publish_requests(partition, 8)
    harness.wait_for(early)
    assert leaving.terminate(10) == 0
    harness.wait_for(late)
    harness.assert_clean()


def test_one_partition_has_at_most_its_share_of_the_records(harness: PipelineHarness) -> None:
    harness.run_in_threads("sync")
    (worker,) = harness.start("processor", processing_seconds=2, concurrency=30, partition_concurrency=10)
    crowded = harness.publish_requests(0, 40)
    others = harness.publish_requests(1, 10)
    wait_until(lambda: in_flight(worker, harness, others) == 10, 10, "the other partition is worked on")
    assert in_flight(worker, harness, crowded) <= 11
    harness.wait_for([*crowded, *others])
    harness.assert_clean()


@pytest.mark.slow(reason="has a time limit that a busy machine misses")
@pytest.mark.timeout(240)
def test_one_worker_processes_1000_files_of_20_seconds_at_once(harness: PipelineHarness) -> None:
    """Measure from the first request to the last completed row, by the database's clock."""
    *_, first_worker = harness.start("relay", "sync", "processor")
    # The first objects of a bucket wait up to a second, until S3 has created its volumes.
    warm = harness.submit(500)
    harness.wait_for(warm)
    assert first_worker.terminate(10) == 0
    (worker,) = harness.start("processor", processing_seconds=20)
    harness.wait_for_assignment(3)
    ids = harness.submit(1000)
    peak = 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and unfinished(harness.engine):
        peak = max(peak, psutil.Process(worker.pid).memory_info().rss)
        time.sleep(0.5)
    harness.wait_for(ids, seconds=1)
    with harness.engine.connect() as connection:
        first, begun, finished, last = connection.execute(
            sa.select(
                sa.func.min(File.created_at),
                sa.func.max(File.started_at),
                sa.func.max(File.finished_at),
                sa.func.max(File.updated_at),
            ).where(File.id.in_(ids))
        ).one()
    assert begun is not None
    assert finished is not None
    makespan = (last - first).total_seconds()
    print(
        f"makespan {makespan:.2f} s, RSS {peak / 1e6:.0f} MB; all begun after {begun - first}, made {finished - first}"
    )
    assert makespan <= 1.1 * 20
    assert peak <= 200e6
    assert len(worker.lines("Partitions assigned")) == 1
    assert not worker.has_logged("Partitions revoked")
    harness.assert_clean()


@pytest.mark.slow(reason="takes two minutes for each protocol")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("protocol", ["classic-eager", "classic-cooperative", "consumer"])
def test_the_one_minute_job_causes_no_rebalance(protocol: str, harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    workers = harness.start("processor", "processor", group_protocol=protocol, processing_seconds=60)
    harness.wait_for_assignment(2, 1)
    assigned = {worker.name: len(worker.lines("Partitions assigned")) for worker in workers}
    ids = harness.submit(9)
    harness.wait_for(ids, seconds=90)
    assert {worker.name: len(worker.lines("Partitions assigned")) for worker in workers} == assigned
    assert not any(worker.has_logged("Partitions lost") for worker in workers)
    results = harness.results()
    assert {file_id: len(results[file_id]) for file_id in ids} == dict.fromkeys(ids, 1)
    harness.assert_clean()
