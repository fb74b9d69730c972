"""Members that keep their partitions over a restart."""

from pathlib import Path

import pytest

from filemill_infra.embedded.supervisor import Supervisor
from tests.integration.audit import audit_commits
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import Process, wait_until

# Longer than a busy machine needs to start a process (classic protocols; under `consumer` it is the broker's 6 s).
GIVEN = {"static_membership": True, "processing_seconds": 0.5, "session_timeout_ms": 30_000}
REVOKED = "Partitions revoked"


def settle(harness: PipelineHarness) -> tuple[Process, Process, dict[str, list[int]]]:
    left = harness.processes.start("processor", "left", **GIVEN)
    wait_until(lambda: left.has_logged("Partitions assigned"), 40, "the first is in")
    right = harness.processes.start("processor", "right", **GIVEN)
    return left, right, harness.wait_for_assignment(2, 1)


def again(harness: PipelineHarness, member: Process) -> Process:
    """The same worker, as a new process."""
    member = harness.processes.start("processor", member.name, **GIVEN)
    wait_until(lambda: member.has_logged("Partitions assigned"), 60, f"it is back\n{member.tail()}")
    return member


@pytest.mark.parametrize("protocol", ["classic-cooperative", "classic-eager", "consumer"])
def test_a_restart_in_good_order_moves_nothing(protocol: str, servers: Supervisor, tmp_path: Path) -> None:
    with open_harness(servers, tmp_path, group_protocol=protocol) as harness:
        harness.run_in_threads("relay", "sync")
        left, right, shares = settle(harness)
        harness.wait_for(harness.submit(12))
        before = len(right.lines(REVOKED))
        assert left.terminate(10) == 0
        back = again(harness, left)
        harness.wait_for(harness.submit(12))
        if protocol != "consumer":
            assert back.lines("Partitions assigned")[0]["partitions"] == shares["left"]
            assert len(right.lines(REVOKED)) == before
        harness.wait_for_assignment(2, 1)
        harness.assert_clean()
        audit_commits(harness, harness.processes.processes)


@pytest.mark.parametrize("protocol", ["classic-cooperative", "consumer"])
def test_a_killed_static_member_that_is_started_at_once_gets_in_again(
    protocol: str, servers: Supervisor, tmp_path: Path
) -> None:
    with open_harness(servers, tmp_path, group_protocol=protocol) as harness:
        harness.run_in_threads("relay", "sync")
        left, right, shares = settle(harness)
        before = len(right.lines(REVOKED))
        ids = harness.submit(60)
        left.kill()
        ids += harness.submit(60)
        back = again(harness, left)
        harness.wait_for(ids, seconds=60)
        if protocol != "consumer":
            assert back.lines("Partitions assigned")[0]["partitions"] == shares["left"]
            assert len(right.lines(REVOKED)) == before
        # Under `consumer` the broker lets nobody in under the name of one whose session is not over: it tries again.
        assert back.alive
        harness.wait_for_assignment(2, 1)
        harness.assert_clean()
        audit_commits(harness, harness.processes.processes)
