"""Processors that are killed, stopped, suspended: nothing is lost, and no more is done twice than must be."""

import time

import pytest

from tests.integration import topics
from tests.integration.audit import audit_commits
from tests.integration.processes import Process, wait_until
from tests.integration.world import World

# The broker takes a silent member for dead after this (infra/embedded/kafka_config.py).
SESSION_SECONDS = 6.0
DRAIN_SECONDS = 3.0


def wait_for_work(world: World, worker: Process, ids: list[int]) -> list[int]:
    """Until the rows show that this worker is processing files of these; returns which."""

    def held() -> list[int]:
        rows = [world.file(file_id) for file_id in ids]
        return [row.id for row in rows if row.status == "processing" and row.worker_id == worker.name]

    return wait_until(held, 20, f"{worker.name} holds a file")


def test_files_of_a_killed_processor_are_completed_by_another(world: World) -> None:
    world.host("relay", "sync")
    victim, survivor = world.start("processor", "processor", processing_seconds=3)
    world.wait_for_shares(2, 1)
    ids = world.submit(9)
    held = wait_for_work(world, victim, ids)
    victim.kill()
    killed_at = time.monotonic()
    world.wait_for(ids)
    # Invariant 9: processing time + session + 10 s.
    assert time.monotonic() - killed_at < 3 + SESSION_SECONDS + 10
    assert {world.file(file_id).worker_id for file_id in held} == {survivor.name}
    results = world.results()
    assert {file_id: len(results[file_id]) for file_id in ids} == dict.fromkeys(ids, 1)
    world.assert_clean()
    assert audit_commits(world, [victim, survivor]) > 0


def test_sigterm_ends_a_processor_within_its_deadline_and_repeats_nothing_that_was_finished(world: World) -> None:
    world.host("relay", "sync")
    first, second = world.start(
        "processor", "processor", processing_seconds=2, processing_steps=2, drain_seconds=DRAIN_SECONDS
    )
    world.wait_for_shares(2, 1)
    ids = world.submit(60)
    wait_for_work(world, first, ids)
    asked_at = time.monotonic()
    assert first.terminate(DRAIN_SECONDS + 7) == 0, first.tail()
    # What was in hand had less than the drain left: it was finished, and nobody else had to.
    assert first.said("File processor stopped")
    assert time.monotonic() - asked_at < DRAIN_SECONDS + 5
    world.wait_for(ids)
    results = world.results()
    assert {file_id: len(results[file_id]) for file_id in ids} == dict.fromkeys(ids, 1)
    world.assert_clean()
    audit_commits(world, [first, second])


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


def test_a_processor_that_sleeps_for_longer_than_its_session_loses_nothing_and_commits_nothing(world: World) -> None:
    world.host("relay", "sync")
    sleeper, other = world.start("processor", "processor", processing_seconds=2)
    world.wait_for_shares(2, 1)
    ids = world.submit(30)
    held = wait_for_work(world, sleeper, ids)
    sleeper.suspend()
    world.wait_for(ids)
    assert {world.file(file_id).worker_id for file_id in held} == {other.name}
    before = {file_id: len(events) for file_id, events in world.results().items()}
    sleeper.resume()
    world.wait_for_shares(2, 1)
    wait_until(lambda: sleeper.said("Partitions lost"), 20, f"the sleeper has noticed\n{sleeper.tail()}")
    assert sleeper.alive
    assert {file_id: len(events) for file_id, events in world.results().items()} == before, "the zombie went on"
    more = world.submit(9)
    world.wait_for(more)
    assert {world.file(file_id).worker_id for file_id in more} == {sleeper.name, other.name}
    assert world.assert_clean().completed == 39
    audit_commits(world, [sleeper, other])


@pytest.mark.slow
def test_ten_killed_processors_in_a_row_lose_nothing(world: World) -> None:
    world.host("relay", "sync")
    ids = []
    world.start("processor", processing_seconds=0.5)
    for _ in range(10):
        (victim,) = world.start("processor", processing_seconds=0.5)
        ids += world.submit(30)
        victim.kill()
    world.wait_for(ids)
    world.assert_clean()
    audit_commits(world, world.crew.members)


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
