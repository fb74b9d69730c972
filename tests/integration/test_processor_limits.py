"""How much one processor holds, how long its work may take, and how quickly it lets go of a great deal."""

import time

import psutil
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File
from filemill.lab.load import unfinished
from tests.integration import topics
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


def wait_for_work(world: World, worker: Process, ids: list[int]) -> list[int]:
    """Until the rows show that this worker is processing files of these; returns which."""

    def held() -> list[int]:
        rows = [world.file(file_id) for file_id in ids]
        return [row.id for row in rows if row.status == "processing" and row.worker_id == worker.name]

    return wait_until(held, 20, f"{worker.name} holds a file")


def test_sigterm_leaves_long_work_to_another_at_once(world: World) -> None:
    world.host("relay", "sync")
    (first,) = world.start("processor", processing_seconds=60)
    ids = world.submit(9)
    wait_for_work(world, first, ids)
    asked_at = time.monotonic()
    assert first.terminate(10) == 0, first.tail()
    assert time.monotonic() - asked_at < 3, "it waited for work that could not be finished in time"
    assert topics.committed(world.settings) == {}
    world.start("processor", processing_seconds=0)
    world.wait_for(ids)
    world.assert_clean()


def test_partitions_that_come_to_a_full_processor_do_not_stop_its_others(world: World) -> None:
    world.host("sync")
    world.start("processor", "processor", processing_seconds=4, processing_steps=4, concurrency=8)
    shares = world.wait_for_shares(2, 1)
    full, leaving = sorted(world.crew.members, key=lambda member: len(shares[member.name]))
    (partition,) = shares[full.name]
    # Full with the eighth, it pauses; with one finished it is not full, and not yet empty enough to go on.
    early = world.request_on(partition, 1)
    wait_until(lambda: (world.file(early[0]).step or 0) >= 2, 20, "the first is half done")
    late = world.request_on(partition, 8)
    world.wait_for(early)
    assert leaving.terminate(10) == 0
    world.wait_for(late)
    world.assert_clean()


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
    """From the first request to the last row that says `completed`, by the database's clock."""
    *_, first_worker = world.start("relay", "sync", "processor")
    # A bucket's first objects wait, for up to a second, for the volumes that S3 makes for them.
    warm = world.submit(500)
    world.wait_for(warm)
    assert first_worker.terminate(10) == 0
    (worker,) = world.start("processor", processing_seconds=20)
    world.wait_for_shares(3)
    ids = world.submit(1000)
    peak = 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and unfinished(world.engine):
        peak = max(peak, psutil.Process(worker.pid).memory_info().rss)
        time.sleep(0.5)
    world.wait_for(ids, seconds=1)
    with world.engine.connect() as connection:
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
