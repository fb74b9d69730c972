"""One suite for all four group protocols, on the real broker, with real processes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill_infra.embedded.supervisor import Supervisor
from tests.integration import topics
from tests.integration.audit import audit_commits
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import Process, wait_until

CLASSIC = ["classic-eager", "classic-cooperative"]
WITH_OFFSETS = [*CLASSIC, "consumer"]
ALL = [*WITH_OFFSETS, "share"]

# The broker's, and the classic members' own.
SESSION_SECONDS = 6.0
# A message that cannot be processed holds up nobody by more than this.
NEIGHBOUR_SECONDS = 1.0
SHARES = [(3,), (2, 1), (1, 1, 1), (1, 1, 1, 0)]


@pytest.fixture
def protocol(request: pytest.FixtureRequest) -> str:
    """The protocol of this test's group."""
    return str(request.param)


@pytest.fixture
def harness(protocol: str, servers: Supervisor, tmp_path: Path) -> Iterator[PipelineHarness]:
    """A world whose group has the protocol; relay and sync run in it."""
    with open_harness(servers, tmp_path, group_protocol=protocol) as harness:
        harness.run_in_threads("relay", "sync")
        yield harness


def join(harness: PipelineHarness, count: int, **given: object) -> list[Process]:
    """Start so many processors; under a share group, which assigns nothing, until they have joined."""
    if harness.settings.group_protocol != "share":
        return harness.start(*["processor"] * count, **given)
    members = [harness.processes.start("processor", None, **given) for _ in range(count)]
    for member in members:
        wait_until(lambda member=member: member.has_logged("Joined"), 40, f"{member.name} is in")  # type: ignore[misc]
    return members


def load(harness: PipelineHarness, worker: Process) -> tuple[list[int], list[int]]:
    """Submit files until this worker is processing some of them; returns all, and those."""
    ids: list[int] = []

    def held() -> list[int]:
        rows = [harness.file(file_id) for file_id in ids]
        return [row.id for row in rows if row.status == "processing" and row.worker_id == worker.name]

    def more() -> list[int]:
        ids.extend(harness.submit(20))
        return held()

    return ids, wait_until(more, 20, f"{worker.name} holds files", every=0.3)


def said_by(harness: PipelineHarness, worker: Process, ids: list[int]) -> dict[int, int]:
    """How many results of each of these files are the worker's."""
    results = harness.results()
    return {file_id: sum(event.worker_id == worker.name for event in results.get(file_id, ())) for file_id in ids}


def check(harness: PipelineHarness) -> None:
    """Every promise, and every commit where there are commits."""
    harness.assert_clean()
    if harness.settings.group_protocol != "share":
        assert audit_commits(harness, harness.processes.processes) > 0


@pytest.mark.parametrize("protocol", WITH_OFFSETS, indirect=True)
def test_one_two_three_and_four_workers_share_the_partitions_as_the_seed_says(harness: PipelineHarness) -> None:
    ids = []
    for shares in SHARES:
        harness.processes.start("processor", None, processing_seconds=0.3)
        ids += harness.submit(30)
        owners = harness.wait_for_assignment(*shares)
        assert sorted(partition for owned in owners.values() for partition in owned) == [0, 1, 2]
    harness.wait_for(ids)
    ids = harness.submit(30)
    harness.wait_for(ids)
    idle = [name for name, owned in owners.items() if not owned]
    assert {harness.file(file_id).worker_id for file_id in ids} == set(owners) - set(idle)
    check(harness)


@pytest.mark.parametrize("protocol", ALL, indirect=True)
def test_a_killed_workers_records_are_done_by_another_and_nothing_is_lost(harness: PipelineHarness) -> None:
    victim, survivor = join(harness, 2, processing_seconds=2)
    if harness.settings.group_protocol != "share":
        harness.wait_for_assignment(2, 1)
    ids, lost = load(harness, victim)
    victim.kill()
    killed_at = time.monotonic()
    harness.wait_for(ids, seconds=60)
    assert time.monotonic() - killed_at < 2 + SESSION_SECONDS + 10
    assert {harness.file(file_id).worker_id for file_id in lost} == {survivor.name}
    check(harness)


@pytest.mark.parametrize("protocol", ALL, indirect=True)
def test_an_invalid_record_is_dead_lettered_and_does_not_delay_others(harness: PipelineHarness) -> None:
    join(harness, 1)
    warm = harness.publish_requests(0, 3)
    harness.wait_for(warm)
    # Valid JSON that is not a request, between valid requests of the same partition.
    before = harness.publish_requests(0, 20)
    topics.publish(harness.settings, harness.settings.topic_create, [b'{"fileId": "no number"}'], partition=0)
    after = harness.publish_requests(0, 20)
    harness.wait_for([*before, *after])
    dead = wait_until(lambda: topics.read(harness.settings, harness.settings.topic_dead_letters), 20, "the dead letter")
    assert [record.value for record in dead] == [b'{"fileId": "no number"}']
    produced = {record.offset: record.at for record in topics.read(harness.settings, harness.settings.topic_create)}
    late = {
        event.file_id: round(event.timestamp.timestamp() - produced[event.offset or 0], 3)
        for event in (events[0] for events in harness.results().values())
        if event.file_id in {*before, *after}
    }
    assert max(late.values()) < NEIGHBOUR_SECONDS, late
    check(harness)


@pytest.mark.parametrize("protocol", [*WITH_OFFSETS, "share"], indirect=True)
def test_a_worker_that_wakes_after_its_session_does_nothing_that_is_not_its_own(harness: PipelineHarness) -> None:
    sleeper, other = join(harness, 2, processing_seconds=2, processing_steps=2)
    if harness.settings.group_protocol != "share":
        harness.wait_for_assignment(2, 1)
    ids, _ = load(harness, sleeper)
    sleeper.suspend()
    harness.wait_for(ids, seconds=60)
    before = said_by(harness, sleeper, ids)
    sleeper.resume()
    sign = "Released records" if harness.settings.group_protocol == "share" else "Partitions lost"
    wait_until(lambda: sleeper.has_logged(sign), 20, f"the sleeper has noticed\n{sleeper.tail()}")
    more = harness.submit(12)
    harness.wait_for(more)
    assert said_by(harness, sleeper, ids) == before, "the zombie went on"
    assert sleeper.alive
    assert other.alive
    check(harness)


@pytest.mark.parametrize("protocol", ALL, indirect=True)
def test_a_worker_that_is_told_to_stop_finishes_what_it_can_and_gives_the_rest_back(harness: PipelineHarness) -> None:
    first, _second = join(harness, 2, processing_seconds=1.5, drain_seconds=4)
    if harness.settings.group_protocol != "share":
        harness.wait_for_assignment(2, 1)
    ids, _ = load(harness, first)
    assert first.terminate(12) == 0, first.tail()
    harness.wait_for(ids)
    results = harness.results()
    assert {file_id: len(results[file_id]) for file_id in ids} == dict.fromkeys(ids, 1), "nothing is done twice"
    check(harness)
