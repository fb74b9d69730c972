"""Leases: a standby takes over if the active relay, sync or monitor is killed, suspended or disconnected."""

import functools
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import GroupSample, LeaseRow, Publication, SyncPosition
from tests.integration.harness import PipelineHarness
from tests.integration.interruptible_proxy import InterruptibleProxy
from tests.integration.processes import Process, wait_until

TAKE_OVER_SECONDS = 5.0
# Enough work that the fault occurs during it.
FILES = 800

Fault = Callable[[Process], None]


def holder(harness: PipelineHarness, lease: str) -> str | None:
    with harness.engine.connect() as connection:
        return connection.execute(sa.select(LeaseRow.holder).where(LeaseRow.name == lease)).scalar()


def taken_over(harness: PipelineHarness, lease: str, victim: Process) -> bool:
    return holder(harness, lease) != victim.name


def count(harness: PipelineHarness, counted: sa.SQLColumnExpression[int] | sa.Function[int]) -> int:
    with harness.engine.connect() as connection:
        return int(connection.execute(sa.select(counted)).scalar() or 0)


@pytest.mark.parametrize("fault", [Process.kill, Process.suspend], ids=["killed", "asleep"])
def test_leases_of_relay_and_sync_are_taken_over_within_five_seconds(harness: PipelineHarness, fault: Fault) -> None:
    relay, sync = harness.start("relay", "sync", relay_batch=10, sync_batch=10)
    harness.run_in_threads("relay", "sync")
    harness.start("processor")
    ids = harness.submit(FILES)
    published, read = sa.func.count(Publication.publish_number), sa.func.sum(SyncPosition.next_offset)
    wait_until(lambda: count(harness, published) > 100 and count(harness, read) > 50, 20, "both are at work")
    assert (holder(harness, "relay"), holder(harness, "sync")) == (relay.name, sync.name)
    fault(relay)
    fault(sync)
    struck_at = time.monotonic()
    assert count(harness, published) < FILES, "the fault occurred too late"
    for victim in (relay, sync):
        lease = victim.name.split("-", maxsplit=1)[0]
        wait_until(
            functools.partial(taken_over, harness, lease, victim), 2 * TAKE_OVER_SECONDS, f"{lease} is taken over"
        )
    assert time.monotonic() - struck_at < TAKE_OVER_SECONDS
    ids += harness.submit(10)
    harness.wait_for(ids)
    if relay.alive:
        before = count(harness, read)
        relay.resume()
        sync.resume()
        wait_until(lambda: relay.has_logged("Relay", state="standby"), 10, "the relay stands by")
        wait_until(lambda: sync.has_logged("Sync", state="standby"), 10, "the sync stands by")
        harness.wait_for(harness.submit(10))
        assert count(harness, read) >= before + 10, "positions went back"
        assert (relay.terminate(10), sync.terminate(10)) == (0, 0)
    harness.assert_clean()


def test_leases_are_taken_over_if_the_connection_to_postgres_is_cut(harness: PipelineHarness) -> None:
    """The connection stays open and no packet arrives: only a timeout ends it."""
    with InterruptibleProxy(harness.settings.database_host, harness.settings.database_port) as proxy:
        given = {"database_port": proxy.port, "relay_batch": 10, "sync_batch": 10}
        relay, sync = harness.start("relay", "sync", **given)
        harness.run_in_threads("relay", "sync")
        harness.start("processor")
        ids = harness.submit(FILES)
        published = sa.func.count(Publication.publish_number)
        wait_until(lambda: count(harness, published) > 100, 20, "they are at work")
        proxy.interrupt()
        cut_at = time.monotonic()
        for victim in (relay, sync):
            lease = victim.name.split("-", maxsplit=1)[0]
            wait_until(
                functools.partial(taken_over, harness, lease, victim), 2 * TAKE_OVER_SECONDS, f"{lease} is taken over"
            )
        assert time.monotonic() - cut_at < TAKE_OVER_SECONDS
        ids += harness.submit(10)
        harness.wait_for(ids)
        proxy.restore()
        wait_until(lambda: relay.has_logged("Relay", state="standby"), 30, f"the relay stands by\n{relay.tail()}")
        wait_until(lambda: sync.has_logged("Sync", state="standby"), 30, f"the sync stands by\n{sync.tail()}")
        assert (relay.terminate(10), sync.terminate(10)) == (0, 0)
        harness.assert_clean()


def test_samples_resume_after_the_monitor_was_killed(harness: PipelineHarness) -> None:
    # The lease lasts as long as these three together.
    soon = {"monitor_interval_seconds": 0.3, "lease_seconds": 1, "server_timeout_seconds": 2}
    (active,) = harness.start("monitor", **soon)
    samples = sa.func.count(GroupSample.sampled_at)
    wait_until(lambda: count(harness, samples) >= 2, 20, "there are samples")
    active.kill()
    before = count(harness, samples)
    harness.start("monitor", **soon)
    wait_until(lambda: count(harness, samples) >= before + 2, 20, "samples resume")
