"""Members that keep their partitions over a restart."""

from pathlib import Path

import pytest

from filemill_infra.embedded.supervisor import Supervisor
from tests.integration.audit import audit_commits
from tests.integration.processes import Process, wait_until
from tests.integration.world import World, pipeline

# Longer than a busy machine needs to start a process (classic protocols; under `consumer` it is the broker's 6 s).
GIVEN = {"static_membership": True, "processing_seconds": 0.5, "session_timeout_ms": 30_000}
REVOKED = "Partitions revoked"


def settle(world: World) -> tuple[Process, Process, dict[str, list[int]]]:
    left = world.crew.start("processor", "left", **GIVEN)
    wait_until(lambda: left.said("Partitions assigned"), 40, "the first is in")
    right = world.crew.start("processor", "right", **GIVEN)
    return left, right, world.wait_for_shares(2, 1)


def again(world: World, member: Process) -> Process:
    """The same worker, as a new process."""
    member = world.crew.start("processor", member.name, **GIVEN)
    wait_until(lambda: member.said("Partitions assigned"), 60, f"it is back\n{member.tail()}")
    return member


@pytest.mark.parametrize("protocol", ["classic-cooperative", "classic-eager", "consumer"])
def test_a_restart_in_good_order_moves_nothing(protocol: str, servers: Supervisor, tmp_path: Path) -> None:
    with pipeline(servers, tmp_path, group_protocol=protocol) as world:
        world.host("relay", "sync")
        left, right, shares = settle(world)
        world.wait_for(world.submit(12))
        before = len(right.lines(REVOKED))
        assert left.terminate(10) == 0
        back = again(world, left)
        world.wait_for(world.submit(12))
        if protocol != "consumer":
            assert back.lines("Partitions assigned")[0]["partitions"] == shares["left"]
            assert len(right.lines(REVOKED)) == before
        world.wait_for_shares(2, 1)
        world.assert_clean()
        audit_commits(world, world.crew.members)


@pytest.mark.parametrize("protocol", ["classic-cooperative", "consumer"])
def test_a_killed_static_member_that_is_started_at_once_gets_in_again(
    protocol: str, servers: Supervisor, tmp_path: Path
) -> None:
    with pipeline(servers, tmp_path, group_protocol=protocol) as world:
        world.host("relay", "sync")
        left, right, shares = settle(world)
        before = len(right.lines(REVOKED))
        ids = world.submit(60)
        left.kill()
        ids += world.submit(60)
        back = again(world, left)
        world.wait_for(ids, seconds=60)
        if protocol != "consumer":
            assert back.lines("Partitions assigned")[0]["partitions"] == shares["left"]
            assert len(right.lines(REVOKED)) == before
        # Under `consumer` the broker lets nobody in under the name of one whose session is not over: it tries again.
        assert back.alive
        world.wait_for_shares(2, 1)
        world.assert_clean()
        audit_commits(world, world.crew.members)
