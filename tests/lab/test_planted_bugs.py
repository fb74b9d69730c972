"""Bugs, planted on purpose into a real process each: the verdict sees every one, and names the invariant."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from filemill.config.settings import as_environment
from filemill.domain.files import to_milliseconds
from filemill.domain.messages import FileCreated, FileProgress, encode
from filemill.lab import status_regressions
from filemill.lab.invariants import Check, Verdict
from filemill.lab.session import Bench
from tests.integration import topics
from tests.integration.processes import Process, wait_until
from tests.integration.world import World

ROOT = Path(__file__).resolve().parents[2]


def start_with(bug: str, world: World, role: str, **given: object) -> Process:
    name = f"{bug}-{len(world.crew.members)}"
    environment = as_environment(world.settings) | {
        "FILEMILL_LOG_FORMAT": "json",
        "FILEMILL_WORKER_ID": name,
        "PYTHONPATH": str(ROOT),
        **{f"FILEMILL_{key.upper()}": str(value) for key, value in given.items()},
    }
    member = world.crew.run(name, [sys.executable, "-m", "tests.lab.planted_bugs", bug, role], environment)
    world.wait_for_process(member, role)
    return member


def verdict(world: World) -> Verdict:
    return Bench(world.settings, world.engine).verdict()


def broken(verdict: Verdict) -> dict[str, Check]:
    return {check.number: check for check in verdict.checks if check.ok is False}


def test_a_world_without_a_bug_is_well(world: World) -> None:
    status_regressions.install(world.engine)
    world.host("relay", "sync")
    world.start("processor", "processor", processing_seconds=0.5)
    world.wait_for(world.submit(30))
    found = verdict(world)
    assert found.ok, str(found)
    assert [check.ok for check in found.checks] == [True] * 9
    assert found.audit is not None
    assert found.audit.commits > 0
    assert found.audit.executions == 30


def test_a_commit_before_the_put_is_caught_though_nothing_was_lost_by_it(world: World) -> None:
    world.host("relay", "sync")
    start_with("early-commit", world, "processor", processing_seconds=1.5)
    world.wait_for(world.submit(9))
    found = broken(verdict(world))
    assert set(found) == {"4"}
    assert "a commit passed a record that was not finished" in found["4"].evidence


def test_a_commit_for_what_was_revoked_is_caught(world: World) -> None:
    world.host("relay", "sync")
    start_with("commit-after-revoke", world, "processor")
    world.wait_for(world.submit(30))
    (other,) = world.start("processor")
    world.wait_for_shares(2, 1)
    world.wait_for(world.submit(30))

    def late() -> bool:
        return "6" in broken(verdict(world))

    # Beside a rebalance the client holds a commit back for one heartbeat or several: 2 to 20 s were seen.
    wait_until(late, 90, f"the late commit is seen\n{other.tail()}", every=1)
    found = broken(verdict(world))
    assert set(found) == {"6"}
    assert "not, or no longer, the worker's" in found["6"].evidence


def test_partitions_that_are_never_resumed_are_caught(world: World) -> None:
    world.host("sync")
    given = {"processing_seconds": 4, "processing_steps": 4, "concurrency": 8}
    members = [start_with("no-resume", world, "processor", **given) for _ in range(2)]
    shares = world.wait_for_shares(2, 1)
    full, leaving = sorted(members, key=lambda member: len(shares[member.name]))
    (partition,) = shares[full.name]
    # Eight begin; more wait than may, so it pauses, until the third eight begin.
    early = world.request_on(partition, 24)
    wait_until(lambda: list(world.statuses(early).values()).count("processing") == 8, 20, "eight are in progress")
    assert leaving.terminate(10) == 0
    world.wait_for_shares(3)
    world.wait_for(early)
    world.request_on(partition, 1)
    # Invariant 9: within processing time, session and 10 s more.
    wait_until(lambda: "9" in broken(verdict(world)), 40, "the partition counts as stalled", every=3)
    found = broken(verdict(world))
    assert "no result within" in found["9"].evidence
    assert found["9"].examples[0].startswith(f"partition {partition}: nothing for")


def test_a_status_that_moves_back_is_caught_even_where_it_comes_again(world: World) -> None:
    status_regressions.install(world.engine)
    world.host("relay")
    start_with("backward-status", world, "sync")
    world.start("processor")
    (file_id,) = world.submit(1)
    world.wait_for([file_id])
    row = world.file(file_id)
    late = FileProgress(
        file_id=file_id,
        run=1,
        worker_id="somebody",
        partition=row.partition or 0,
        offset=row.offset or 0,
        attempt=1,
        step=1,
        steps=6,
        timestamp=to_milliseconds(datetime.now(UTC)),
    )
    topics.publish(world.settings, world.settings.topic_progress, [encode(late)])
    world.wait_for([file_id], "processing")
    # The row comes right again, by a result that a foreign service might send.
    again = FileCreated(file_id=file_id, s3_location=row.s3_location, status="completed", timestamp=late.timestamp)
    topics.publish(world.settings, world.settings.topic_created, [encode(again)])
    world.wait_for([file_id])
    found = broken(verdict(world))
    assert "5" in found
    assert found["5"].examples == [f"file {file_id}: completed (run 1) → processing (run 1)"]


def test_a_relay_that_drops_a_row_is_caught(world: World) -> None:
    world.host("sync")
    world.start("processor")
    start_with("dropping-relay", world, "relay")
    ids = world.submit(9)
    wait_until(lambda: list(world.statuses(ids).values()).count("completed") == 8, 30, "the others are completed")
    found = broken(verdict(world))
    assert {"1", "8"} <= set(found)
    assert found["1"].examples == [f"{ids[0]} (neither in the outbox nor published)"]


def test_a_key_that_depends_on_the_clock_is_caught(world: World) -> None:
    world.host("relay", "sync")
    start_with("clock-in-the-key", world, "processor", processing_seconds=0.1)
    world.wait_for(world.submit(3))
    found = broken(verdict(world))
    assert "2" in found
    assert "not under the request's key" in found["2"].evidence
