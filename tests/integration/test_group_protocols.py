"""One suite for all four group protocols, on the real broker, with real processes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill_infra.embedded.supervisor import Supervisor
from tests.integration import topics
from tests.integration.audit import audit_commits
from tests.integration.processes import Process, wait_until
from tests.integration.world import World, pipeline

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
def world(protocol: str, servers: Supervisor, tmp_path: Path) -> Iterator[World]:
    """A world whose group has the protocol; relay and sync run in it."""
    with pipeline(servers, tmp_path, group_protocol=protocol) as world:
        world.host("relay", "sync")
        yield world


def join(world: World, count: int, **given: object) -> list[Process]:
    """Start so many processors; under a share group, which assigns nothing, until they have joined."""
    if world.settings.group_protocol != "share":
        return world.start(*["processor"] * count, **given)
    members = [world.crew.start("processor", None, **given) for _ in range(count)]
    for member in members:
        wait_until(lambda member=member: member.said("Joined"), 40, f"{member.name} is in")  # type: ignore[misc]
    return members


def load(world: World, worker: Process) -> tuple[list[int], list[int]]:
    """Submit files until this worker is processing some of them; returns all, and those."""
    ids: list[int] = []

    def held() -> list[int]:
        rows = [world.file(file_id) for file_id in ids]
        return [row.id for row in rows if row.status == "processing" and row.worker_id == worker.name]

    def more() -> list[int]:
        ids.extend(world.submit(20))
        return held()

    return ids, wait_until(more, 20, f"{worker.name} holds files", every=0.3)


def said_by(world: World, worker: Process, ids: list[int]) -> dict[int, int]:
    """How many results of each of these files are the worker's."""
    results = world.results()
    return {file_id: sum(event.worker_id == worker.name for event in results.get(file_id, ())) for file_id in ids}


def check(world: World) -> None:
    """Every promise, and every commit where there are commits."""
    world.assert_clean()
    if world.settings.group_protocol != "share":
        assert audit_commits(world, world.crew.members) > 0


@pytest.mark.parametrize("protocol", WITH_OFFSETS, indirect=True)
def test_one_two_three_and_four_workers_share_the_partitions_as_the_seed_says(world: World) -> None:
    ids = []
    for shares in SHARES:
        world.crew.start("processor", None, processing_seconds=0.3)
        ids += world.submit(30)
        owners = world.wait_for_shares(*shares)
        assert sorted(partition for owned in owners.values() for partition in owned) == [0, 1, 2]
    world.wait_for(ids)
    ids = world.submit(30)
    world.wait_for(ids)
    idle = [name for name, owned in owners.items() if not owned]
    assert {world.file(file_id).worker_id for file_id in ids} == set(owners) - set(idle)
    check(world)


@pytest.mark.parametrize("protocol", ALL, indirect=True)
def test_a_killed_workers_records_are_done_by_another_and_nothing_is_lost(world: World) -> None:
    victim, survivor = join(world, 2, processing_seconds=2)
    if world.settings.group_protocol != "share":
        world.wait_for_shares(2, 1)
    ids, lost = load(world, victim)
    victim.kill()
    killed_at = time.monotonic()
    world.wait_for(ids, seconds=60)
    assert time.monotonic() - killed_at < 2 + SESSION_SECONDS + 10
    assert {world.file(file_id).worker_id for file_id in lost} == {survivor.name}
    check(world)


@pytest.mark.parametrize("protocol", ALL, indirect=True)
def test_a_poisonous_message_is_parked_and_delays_none_of_its_neighbours(world: World) -> None:
    join(world, 1)
    warm = world.request_on(0, 3)
    world.wait_for(warm)
    # Valid JSON that is no request, amid good ones of the same partition.
    before = world.request_on(0, 20)
    topics.publish(world.settings, world.settings.topic_create, [b'{"fileId": "no number"}'], partition=0)
    after = world.request_on(0, 20)
    world.wait_for([*before, *after])
    dead = wait_until(lambda: topics.read(world.settings, world.settings.topic_dead_letters), 20, "it is parked")
    assert [record.value for record in dead] == [b'{"fileId": "no number"}']
    produced = {record.offset: record.at for record in topics.read(world.settings, world.settings.topic_create)}
    late = {
        event.file_id: round(event.timestamp.timestamp() - produced[event.offset or 0], 3)
        for event in (events[0] for events in world.results().values())
        if event.file_id in {*before, *after}
    }
    assert max(late.values()) < NEIGHBOUR_SECONDS, late
    check(world)


@pytest.mark.parametrize("protocol", [*WITH_OFFSETS, "share"], indirect=True)
def test_a_worker_that_wakes_after_its_session_does_nothing_that_is_not_its_own(world: World) -> None:
    sleeper, other = join(world, 2, processing_seconds=2, processing_steps=2)
    if world.settings.group_protocol != "share":
        world.wait_for_shares(2, 1)
    ids, _ = load(world, sleeper)
    sleeper.suspend()
    world.wait_for(ids, seconds=60)
    before = said_by(world, sleeper, ids)
    sleeper.resume()
    sign = "Released records" if world.settings.group_protocol == "share" else "Partitions lost"
    wait_until(lambda: sleeper.said(sign), 20, f"the sleeper has noticed\n{sleeper.tail()}")
    more = world.submit(12)
    world.wait_for(more)
    assert said_by(world, sleeper, ids) == before, "the zombie went on"
    assert sleeper.alive
    assert other.alive
    check(world)


@pytest.mark.parametrize("protocol", ALL, indirect=True)
def test_a_worker_that_is_told_to_stop_finishes_what_it_can_and_gives_the_rest_back(world: World) -> None:
    first, _second = join(world, 2, processing_seconds=1.5, drain_seconds=4)
    if world.settings.group_protocol != "share":
        world.wait_for_shares(2, 1)
    ids, _ = load(world, first)
    assert first.terminate(12) == 0, first.tail()
    world.wait_for(ids)
    results = world.results()
    assert {file_id: len(results[file_id]) for file_id in ids} == dict.fromkeys(ids, 1), "nothing is done twice"
    check(world)
