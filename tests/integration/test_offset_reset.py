"""Resets of the group's offsets on a real broker: no accepted request is lost."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from filemill.adapters.kafka.admin import AdminConflict, KafkaAdmin
from filemill.adapters.postgres.audit import offset_resets
from filemill.config.settings import as_environment
from filemill.domain.offsets import topic_id_in
from filemill.entrypoints import bootstrap
from filemill.errors import Conflict
from filemill.queries.audit import AuditFilter, audit_page
from filemill.services.offset_reset import (
    CannotReset,
    OffsetReset,
    ResetPlan,
    ResetRefusal,
    ResetTarget,
    UnfinishedPolicy,
)
from filemill.verification.findings import FindingCode
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import Process, wait_until
from tests.integration.rest import Rest
from tests.principals import TEST

# Longer than a test, so that a record that was started does not finish by itself.
FOR_EVER = 600
EMPTY_SECONDS = 30.0


def make_reset(harness: PipelineHarness) -> OffsetReset:
    operations = bootstrap.operations(harness.settings, harness.engine)
    return bootstrap.offset_reset(harness.settings, harness.engine, file_operations=operations)


def stop(harness: PipelineHarness, member: Process) -> None:
    """Kill a processor while it works, and wait until the broker removes it from the group."""
    member.kill()
    reset = make_reset(harness)
    wait_until(lambda: reset.refusal() is None, EMPTY_SECONDS, "the group has no members", every=0.3)


def committed(harness: PipelineHarness) -> list[int | None]:
    parts = bootstrap.kafka_admin(harness.settings).offsets(harness.settings.kafka_group, harness.settings.topic_create)
    return [part.committed for part in parts]


def audit_details(harness: PipelineHarness) -> list[dict[str, Any]]:
    with harness.engine.connect() as connection:
        return [one.detail for one in audit_page(connection, AuditFilter(action="offsets.reset"))][::-1]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("protocol", ["consumer", "classic-eager"])
def test_a_reset_of_a_group_with_members_is_refused_by_filemill_and_by_the_broker(
    protocol: str, harness: PipelineHarness
) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor", group_protocol=protocol, processing_seconds=FOR_EVER)
    harness.wait_for(harness.submit(3), "processing")
    reset = make_reset(harness)
    plan = reset.plan(ResetTarget("latest"))
    assert plan.why_not == (
        "Kafka refuses while the group has a member: stop the processors first "
        "(Workers, scale to 0, or `filemill workers scale 0`)"
    )
    with pytest.raises(CannotReset) as refused:
        reset.apply(plan, ResetTarget("latest"), "cancel", TEST)
    assert refused.value.code is ResetRefusal.GROUP_HAS_MEMBERS
    admin = bootstrap.kafka_admin(harness.settings)
    with pytest.raises(Conflict) as conflict:
        admin.alter_offsets(harness.settings.kafka_group, harness.settings.topic_create, plan.offsets)
    assert conflict.value.code == AdminConflict.GROUP_HAS_MEMBERS
    assert audit_details(harness) == []


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("then", "status"), [("resubmit", "completed"), ("cancel", "cancelled")])
def test_skipped_requests_are_resubmitted_or_cancelled(
    then: UnfinishedPolicy, status: str, harness: PipelineHarness
) -> None:
    harness.run_in_threads("relay", "sync")
    done = harness.submit(6)
    (quick,) = harness.start("processor")
    harness.wait_for(done)
    stop(harness, quick)
    (slow,) = harness.start("processor", processing_seconds=FOR_EVER)
    begun = harness.submit(6)
    harness.wait_for(begun, "processing")
    stop(harness, slow)
    foreign = harness.publish_requests(1, 2)  # no publication, no header: only the record says whose it is

    reset, target = make_reset(harness), ResetTarget("latest")
    plan = reset.plan(target)
    assert plan.why_not is None
    assert plan.skipped == sorted([*begun, *foreign])
    assert [len(move.skipped) for move in plan.moves] == [2, 4, 2]
    late = harness.publish_requests(2, 1)  # after the preview, and beyond what it moves to
    result = reset.apply(plan, target, then, TEST)
    assert result.cancelled == plan.skipped
    assert result.resubmitted == (plan.skipped if then == "resubmit" else [])
    assert committed(harness) == [move.new for move in plan.moves]
    (detail,) = audit_details(harness)
    assert (detail["to"], detail["unfinished"], detail["then"]) == ("latest", 8, then)

    harness.start("processor")
    harness.wait_for([*done, *late])
    harness.wait_for(plan.skipped, status)
    runs = {harness.file(file_id).run for file_id in plan.skipped}
    assert runs == {2 if then == "resubmit" else 1}
    report = harness.assert_clean()
    assert report.submitted == 15
    assert report.in_flight == 0


@pytest.mark.timeout(150)
def test_reprocessed_records_change_no_file_in_a_final_status(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    ids = harness.submit(9)
    (member,) = harness.start("processor")
    harness.wait_for(ids)
    before = {file_id: harness.file(file_id) for file_id in ids}
    member.terminate(20)
    reset = make_reset(harness)
    wait_until(lambda: reset.refusal() is None, EMPTY_SECONDS, "the group has no members", every=0.3)

    plan = reset.plan(ResetTarget("shift", by=-2))
    assert [move.difference for move in plan.moves] == [-2, -2, -2]
    assert (plan.repeated, plan.skipped) == (6, [])
    reset.apply(plan, ResetTarget("shift", by=-2), "cancel", TEST)
    harness.start("processor")
    wait_until(lambda: sum(map(len, harness.results().values())) == 15, 30, "six records were reprocessed")
    after = {file_id: harness.file(file_id) for file_id in ids}
    assert {one.sha256 for one in after.values()} == {one.sha256 for one in before.values()}
    assert {one.finished_at for one in after.values()} == {one.finished_at for one in before.values()}
    assert harness.assert_clean().duplicate_results == 6


def test_a_skip_without_an_audit_record_violates_an_invariant(harness: PipelineHarness) -> None:
    harness.publish_requests(0, 2)
    bootstrap.kafka_admin(harness.settings).alter_offsets(
        harness.settings.kafka_group, harness.settings.topic_create, {0: 1}
    )
    assert harness.verify().findings[FindingCode.COMMITTED_UNFINISHED].examples == ["partition 0, offset 0"]


def test_a_time_means_the_first_record_from_that_time_on(harness: PipelineHarness) -> None:
    """Partition 0 has two records before the time and one after it; the others have only records before it."""
    for partition in range(3):
        harness.publish_requests(partition, 2)
    time.sleep(0.01)
    moment = datetime.now(UTC)
    time.sleep(0.01)
    harness.publish_requests(0, 1)
    plan = make_reset(harness).plan(ResetTarget("time", at=moment))
    assert [(move.current, move.new, len(move.skipped)) for move in plan.moves] == [(0, 2, 2)] * 3


def test_a_plan_is_refused_if_the_topic_was_recreated(harness: PipelineHarness) -> None:
    harness.publish_requests(0, 2)
    reset = make_reset(harness)
    plan = reset.plan(ResetTarget("latest"))
    topics.recreate_topic(harness.settings, harness.settings.topic_create)
    waiting = harness.publish_requests(0, 2)
    with pytest.raises(CannotReset) as refused:
        reset.apply(plan, ResetTarget("latest"), "cancel", TEST)
    assert refused.value.code is ResetRefusal.TOPIC_RECREATED
    assert committed(harness) == [None] * 3
    assert set(harness.statuses(waiting).values()) == {"pending"}
    assert audit_details(harness) == []
    assert reset.apply(reset.plan(ResetTarget("latest")), ResetTarget("latest"), "cancel", TEST).cancelled == waiting


def test_the_commits_of_a_reset_name_their_topic_and_count_for_no_other(harness: PipelineHarness) -> None:
    topic, group = harness.settings.topic_create, harness.settings.kafka_group
    admin = KafkaAdmin(harness.settings)
    for partition in range(3):
        harness.publish_requests(partition, 3)
    reset = make_reset(harness)
    plan = reset.plan(ResetTarget("shift", by=2))
    reset.apply(plan, ResetTarget("shift", by=2), "cancel", TEST)
    found = {topic_id_in(part.metadata) for part in topics.committed(harness.settings).values()}
    assert found == {admin.identities([topic])[topic].topic_id}
    assert committed(harness) == [2, 2, 2]
    topics.recreate_topic(harness.settings, topic)
    for partition in range(3):
        harness.publish_requests(partition, 4)
    # As by a reset that was running while the topic was recreated.
    admin.alter_offsets(group, topic, {0: 2, 1: 2}, plan.topic_id)
    topics.commit(harness.settings, 2, 2)  # as a foreign worker commits
    assert committed(harness) == [None, None, 2]
    assert [part.lag for part in admin.offsets(group, topic)] == [4, 4, 2]
    assert [move.current for move in reset.plan(ResetTarget("latest")).moves] == [0, 0, 2]


def test_requests_are_resubmitted_if_the_broker_refuses_the_commit(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = harness.publish_requests(0, 3)
    reset = make_reset(harness)
    plan: ResetPlan = reset.plan(ResetTarget("latest"))

    def refuse(*_given: object) -> None:
        raise Conflict("Kafka refuses: somebody has just joined", AdminConflict.GROUP_HAS_MEMBERS)

    monkeypatch.setattr(KafkaAdmin, "alter_offsets", refuse)
    with pytest.raises(CannotReset, match="just joined"):
        reset.apply(plan, ResetTarget("latest"), "cancel", TEST)
    assert harness.statuses(ids) == dict.fromkeys(ids, "pending")
    assert {harness.file(file_id).run for file_id in ids} == {2}  # through the outbox once more
    (detail,) = audit_details(harness)
    assert detail["refused"] == "Kafka refuses: somebody has just joined"
    with harness.engine.connect() as connection:
        assert offset_resets(connection, harness.settings.kafka_group, harness.settings.topic_create) == []


def test_a_reset_over_rest_is_a_dry_run_by_default(rest: Rest) -> None:
    settings = rest.services.settings
    file_id = rest.create("on its way")
    value = b'{"fileId": %d, "title": "x", "description": "", "timestamp": "2026-01-04T12:00:00Z"}' % file_id
    topics.publish(settings, settings.topic_create, [value], partition=0)
    told = rest.client.post("/api/offsets/reset", json={"to": "latest"}).json()
    assert (told["dry_run"], told["why_not"], told["moves"][0]["skipped"]) == (True, None, [file_id])
    assert rest.client.get(f"/api/files/{file_id}").json()["status"] == "pending"
    moved = rest.client.post("/api/offsets/reset", json={"to": "latest", "unfinished": "cancel", "dry_run": False})
    assert (moved.status_code, moved.json()["cancelled"]) == (200, 1)
    assert rest.client.get(f"/api/files/{file_id}").json()["status"] == "cancelled"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"to": "now"},
        {"to": "time"},
        {"to": "time", "at": "noon"},
        {"to": "shift", "by": 1.5},
        {"to": "latest", "x": 1},
    ],
    ids=str,
)
def test_an_invalid_reset_over_rest_is_refused(body: dict[str, object], rest: Rest) -> None:
    answer = rest.client.post("/api/offsets/reset", json=body)
    assert answer.status_code == 422, answer.text


def command(harness: PipelineHarness, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `filemill offsets …` on the servers of the harness."""
    argv = [sys.executable, "-m", "filemill", "offsets", *arguments]
    environment = {**os.environ, **as_environment(harness.settings)}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_previews_and_resets(harness: PipelineHarness) -> None:
    ids = harness.publish_requests(1, 3)
    told = command(harness, "preview", "--by", "2", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["moves"][1] == {"partition": 1, "current": 0, "new": 2, "skipped": ids[:2]}
    assert committed(harness) == [None, None, None]
    done = command(harness, "reset", "--to", "latest", "--cancel", "--yes")
    assert done.returncode == 0, done.stderr
    assert "1 partition moved; 3 requests cancelled" in done.stderr
    assert committed(harness) == [None, 3, None]
    assert audit_details(harness)[0]["then"] == "cancel"
    for wrong in ([], ["--to", "noon"], ["--to", "latest", "--by", "1"]):
        assert command(harness, "preview", *wrong).returncode == 2


@pytest.mark.parametrize(
    "at",
    ["1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.998Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
)
def test_a_time_before_1970_is_refused(at: str, rest: Rest) -> None:
    answer = rest.client.post("/api/offsets/reset", json={"to": "time", "at": at})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == "at"


def test_the_start_of_1970_means_the_beginning(rest: Rest) -> None:
    answer = rest.client.post("/api/offsets/reset", json={"to": "time", "at": "1970-01-01T00:00:00Z"})
    assert answer.status_code == 200, answer.text
