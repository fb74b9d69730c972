"""One relay, sync and monitor are active, the others stand by: what happens when the active one is gone, or asleep."""

import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from filemill.adapters.tables import GroupSample, LeaseRow, Publication, SyncPosition
from tests.integration.processes import Process, wait_until
from tests.integration.world import World

TAKE_OVER_SECONDS = 5.0
# Enough that the fault comes in the middle of it.
FILES = 1500

Fault = Callable[[Process], None]
faults = pytest.mark.parametrize("fault", [Process.kill, Process.suspend], ids=["killed", "asleep"])


def holder(world: World, lease: str) -> str | None:
    with world.engine.connect() as connection:
        return connection.execute(sa.select(LeaseRow.holder).where(LeaseRow.name == lease)).scalar()


def count(world: World, counted: sa.SQLColumnExpression[int] | sa.Function[int]) -> int:
    with world.engine.connect() as connection:
        return int(connection.execute(sa.select(counted)).scalar() or 0)


def strike(world: World, lease: str, active: Process, fault: Fault) -> None:
    """Let the fault hit the holder of the lease, and see that somebody else has it soon."""
    assert holder(world, lease) == active.name
    struck_at = time.monotonic()
    fault(active)
    wait_until(lambda: holder(world, lease) != active.name, TAKE_OVER_SECONDS + 5, "somebody else holds the lease")
    assert time.monotonic() - struck_at < TAKE_OVER_SECONDS


@faults
def test_another_relay_takes_over_within_five_seconds_and_numbers_stay_in_turn(world: World, fault: Fault) -> None:
    (active,) = world.start("relay", relay_batch=10)
    world.host("relay", "sync")
    world.start("processor")
    ids = world.submit(FILES)
    published = sa.func.count(Publication.publish_number)
    wait_until(lambda: count(world, published) > 100, 20, "the relay is in the middle of it")
    strike(world, "relay", active, fault)
    assert count(world, published) < FILES, "the fault came too late"
    ids += world.submit(10)
    world.wait_for(ids)
    if active.alive:
        active.resume()
        wait_until(lambda: active.said("Relay", state="standby"), 10, "it stands by")
        more = world.submit(10)
        world.wait_for(more)
        assert active.terminate(10) == 0
    report = world.assert_clean()
    assert report.repeats <= FILES


@faults
def test_another_sync_takes_over_within_five_seconds_and_every_status_arrives(world: World, fault: Fault) -> None:
    (active,) = world.start("sync", sync_batch=10)
    world.host("relay", "sync")
    world.start("processor")
    ids = world.submit(FILES)
    moved = sa.func.sum(SyncPosition.next_offset)
    wait_until(lambda: count(world, moved) > 100, 20, "the sync is in the middle of it")
    strike(world, "sync", active, fault)
    ids += world.submit(10)
    world.wait_for(ids)
    if active.alive:
        active.resume()
        wait_until(lambda: active.said("Sync", state="standby"), 10, "it stands by")
        before = count(world, moved)
        world.wait_for(world.submit(10))
        assert count(world, moved) >= before + 10, "positions went back"
        assert active.terminate(10) == 0
    world.assert_clean()


def test_samples_resume_after_the_monitor_was_killed(world: World) -> None:
    (active,) = world.start("monitor", monitor_interval_seconds=0.3)
    samples = sa.func.count(GroupSample.sampled_at)
    wait_until(lambda: count(world, samples) >= 2, 20, "there are samples")
    active.kill()
    before = count(world, samples)
    world.start("monitor", monitor_interval_seconds=0.3)
    wait_until(lambda: count(world, samples) >= before + 2, 20, "samples resume")
