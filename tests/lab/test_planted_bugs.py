"""Bugs planted in real processes: the check of the invariants finds each one."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from filemill.config.settings import as_environment
from filemill.domain.files import truncate_to_milliseconds
from filemill.domain.messages import FileCreated, FileProgress, encode
from filemill.lab import status_regressions
from filemill.lab.invariants import InvariantCheck, InvariantReport
from filemill.lab.session import PipelineSession
from filemill.verification.findings import Invariant
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import Process, wait_until

ROOT = Path(__file__).resolve().parents[2]


def start_with(bug: str, harness: PipelineHarness, role: str, **given: object) -> Process:
    name = f"{bug}-{len(harness.processes.processes)}"
    environment = as_environment(harness.settings) | {
        "FILEMILL_LOG_FORMAT": "json",
        "FILEMILL_WORKER_ID": name,
        "PYTHONPATH": str(ROOT),
        **{f"FILEMILL_{key.upper()}": str(value) for key, value in given.items()},
    }
    member = harness.processes.run(name, [sys.executable, "-m", "tests.lab.planted_bugs", bug, role], environment)
    harness.wait_for_process(member, role)
    return member


def check(harness: PipelineHarness) -> InvariantReport:
    return PipelineSession(harness.settings, harness.engine).check_invariants()


def violated(report: InvariantReport) -> dict[str, InvariantCheck]:
    return {check.number: check for check in report.checks if check.ok is False}


def test_a_pipeline_without_a_bug_keeps_all_invariants(harness: PipelineHarness) -> None:
    status_regressions.install_trigger(harness.engine)
    harness.run_in_threads("relay", "sync")
    harness.start("processor", "processor", processing_seconds=0.5)
    harness.wait_for(harness.submit(30))
    found = check(harness)
    assert found.ok, str(found)
    assert [check.ok for check in found.checks] == [True] * len(Invariant)
    assert found.audit is not None
    assert found.audit.commits > 0
    assert found.audit.executions == 30


def test_a_commit_before_the_put_is_found_even_if_nothing_is_lost(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    start_with("early-commit", harness, "processor", processing_seconds=1.5)
    harness.wait_for(harness.submit(9))
    found = violated(check(harness))
    assert set(found) == {"4"}
    assert "commits that passed a record that was not finished" in found["4"].evidence


def test_a_commit_after_a_revocation_is_found(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    start_with("commit-after-revoke", harness, "processor")
    harness.wait_for(harness.submit(30))
    (other,) = harness.start("processor")
    harness.wait_for_assignment(2, 1)
    harness.wait_for(harness.submit(30))

    def late() -> bool:
        return "6" in violated(check(harness))

    # Beside a rebalance the client holds a commit back for one heartbeat or several: 2 to 20 s were seen.
    wait_until(late, 90, f"the late commit is seen\n{other.tail()}", every=1)
    found = violated(check(harness))
    assert set(found) == {"6"}
    assert "did not own, or no longer owned" in found["6"].evidence


def test_partitions_that_are_never_resumed_are_found(harness: PipelineHarness) -> None:
    harness.run_in_threads("sync")
    given = {"processing_seconds": 4, "processing_steps": 4, "concurrency": 8}
    members = [start_with("no-resume", harness, "processor", **given) for _ in range(2)]
    shares = harness.wait_for_assignment(2, 1)
    full, leaving = sorted(members, key=lambda member: len(shares[member.name]))
    (partition,) = shares[full.name]
    # Eight begin; more wait than may, so it pauses, until the third eight begin.
    early = harness.publish_requests(partition, 24)
    wait_until(lambda: list(harness.statuses(early).values()).count("processing") == 8, 20, "eight are in progress")
    assert leaving.terminate(10) == 0
    harness.wait_for_assignment(3)
    harness.wait_for(early)
    harness.publish_requests(partition, 1)
    # Invariant 9: within processing time, session and 10 s more.
    wait_until(lambda: "9" in violated(check(harness)), 40, "the partition counts as stalled", every=3)
    found = violated(check(harness))
    assert "no result for too long" in found["9"].evidence
    assert found["9"].examples[0].startswith(f"partition {partition}: nothing for")


def test_a_status_that_moves_backwards_is_found_even_if_it_recovers(harness: PipelineHarness) -> None:
    status_regressions.install_trigger(harness.engine)
    harness.run_in_threads("relay")
    start_with("backward-status", harness, "sync")
    harness.start("processor")
    (file_id,) = harness.submit(1)
    harness.wait_for([file_id])
    row = harness.file(file_id)
    late = FileProgress(
        file_id=file_id,
        run=1,
        worker_id="somebody",
        partition=row.partition or 0,
        offset=row.offset or 0,
        attempt=1,
        step=1,
        steps=6,
        timestamp=truncate_to_milliseconds(datetime.now(UTC)),
    )
    topics.publish(harness.settings, harness.settings.topic_progress, [encode(late)])
    harness.wait_for([file_id], "processing")
    # The row comes right again, by a result that a foreign service might send.
    again = FileCreated(file_id=file_id, s3_location=row.s3_location, status="completed", timestamp=late.timestamp)
    topics.publish(harness.settings, harness.settings.topic_created, [encode(again)])
    harness.wait_for([file_id])
    found = violated(check(harness))
    assert "5" in found
    assert found["5"].examples == [f"file {file_id}: completed (run 1) → processing (run 1)"]


def test_a_relay_that_drops_a_row_is_found(harness: PipelineHarness) -> None:
    harness.run_in_threads("sync")
    harness.start("processor")
    start_with("dropping-relay", harness, "relay")
    ids = harness.submit(9)
    wait_until(lambda: list(harness.statuses(ids).values()).count("completed") == 8, 30, "the others are completed")
    found = violated(check(harness))
    assert {"1", "8"} <= set(found)
    assert found["1"].examples == [f"{ids[0]} (neither in the outbox nor published)"]


def test_a_key_that_depends_on_the_clock_is_found(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    start_with("clock-in-the-key", harness, "processor", processing_seconds=0.1)
    harness.wait_for(harness.submit(3))
    found = violated(check(harness))
    assert "2" in found
    assert "not under the request's key" in found["2"].evidence
