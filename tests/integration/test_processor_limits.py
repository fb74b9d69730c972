"""How much one processor holds, how long its work may take, and how quickly it lets go of a great deal."""

import time

import psutil
import pytest

from tests.integration.audit import audit_commits
from tests.integration.processes import Process, wait_until
from tests.integration.world import World

DRAIN_SECONDS = 4.0


def in_flight(worker: Process, world: World, ids: list[int]) -> int:
    rows = [world.file(file_id) for file_id in ids]
    return sum(row.status == "processing" and row.worker_id == worker.name for row in rows)


def test_sigterm_amid_500_records_ends_in_time_and_repeats_none_that_was_finished(world: World) -> None:
    world.host("relay", "sync")
    given = {"processing_seconds": 3, "processing_steps": 3, "drain_seconds": DRAIN_SECONDS}
    (first,) = world.start("processor", **given)
    ids = world.submit(500)
    wait_until(lambda: list(world.statuses(ids).values()).count("processing") == 500, 20, "500 are in flight")
    # Their work ends within the drain; those that come now are given back unfinished.
    late = world.submit(100)
    wait_until(lambda: "processing" in world.statuses(late).values(), 20, "more are taken in")
    asked_at = time.monotonic()
    assert first.terminate(DRAIN_SECONDS + 10) == 0, first.tail()
    assert time.monotonic() - asked_at < DRAIN_SECONDS + 5
    world.start("processor", processing_seconds=0)
    world.wait_for([*ids, *late])
    results = world.results()
    assert {file_id: len(results[file_id]) for file_id in ids} == dict.fromkeys(ids, 1)
    world.assert_clean()
    assert audit_commits(world, world.crew.members) > 0


def test_one_partition_may_hold_no_more_than_its_share(world: World) -> None:
    world.host("sync")
    (worker,) = world.start("processor", processing_seconds=2, concurrency=30, partition_concurrency=10)
    crowded = world.request_on(0, 40)
    others = world.request_on(1, 10)
    wait_until(lambda: in_flight(worker, world, others) == 10, 10, "the other partition is worked on")
    assert in_flight(worker, world, crowded) <= 11
    world.wait_for([*crowded, *others])
    world.assert_clean()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_one_worker_holds_1000_files_of_20_seconds_each(world: World) -> None:
    world.host("relay", "sync")
    (worker,) = world.start("processor", processing_seconds=20)
    began = time.monotonic()
    ids = world.submit(1000)
    peak = 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and "completed" not in world.statuses(ids).values():
        peak = max(peak, psutil.Process(worker.pid).memory_info().rss)
        time.sleep(0.5)
    world.wait_for(ids, seconds=30)
    makespan = time.monotonic() - began
    print(f"makespan {makespan:.2f} s, RSS {peak / 1e6:.0f} MB")
    assert makespan <= 1.1 * 20
    assert peak <= 200e6
    assert len(worker.lines("Partitions assigned")) == 1
    assert not worker.said("Partitions revoked")
    world.assert_clean()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("protocol", ["classic-eager", "classic-cooperative", "consumer"])
def test_the_one_minute_job_causes_no_rebalance(protocol: str, world: World) -> None:
    world.host("relay", "sync")
    workers = world.start("processor", "processor", group_protocol=protocol, processing_seconds=60)
    world.wait_for_shares(2, 1)
    assigned = {worker.name: len(worker.lines("Partitions assigned")) for worker in workers}
    ids = world.submit(9)
    world.wait_for(ids, seconds=90)
    assert {worker.name: len(worker.lines("Partitions assigned")) for worker in workers} == assigned
    assert not any(worker.said("Partitions lost") for worker in workers)
    results = world.results()
    assert {file_id: len(results[file_id]) for file_id in ids} == dict.fromkeys(ids, 1)
    world.assert_clean()
