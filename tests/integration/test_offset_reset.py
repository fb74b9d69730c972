"""The group's offsets are moved on a real broker, and nothing that was accepted is lost by it."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from filemill import wiring
from filemill.adapters.kafka_admin import KafkaAdmin
from filemill.adapters.postgres_operations import offset_resets
from filemill.adapters.tables import Operation
from filemill.offset_reset import CannotReset, OffsetReset, Plan, Target, Unfinished
from filemill.offsets import topic_of
from filemill.operations import Operations
from filemill.settings import as_environment
from tests.integration import topics
from tests.integration.processes import Process, wait_until
from tests.integration.rest import Rest
from tests.integration.world import World

# Longer than a test: what is begun under it does not end by itself.
FOR_EVER = 600
EMPTY_SECONDS = 30.0


def mover(world: World) -> OffsetReset:
    operations = Operations(world.settings, world.engine, wiring.s3_client(world.settings))
    return OffsetReset(world.settings, world.engine, KafkaAdmin(world.settings), operations)


def stop(world: World, member: Process) -> None:
    """End a processor amid its work, and wait until the broker takes it for gone."""
    member.kill()
    reset = mover(world)
    wait_until(lambda: reset.why_not() is None, EMPTY_SECONDS, "the group has no members", every=0.3)


def committed(world: World) -> list[int | None]:
    parts = KafkaAdmin(world.settings).offsets(world.settings.kafka_group, world.settings.topic_create)
    return [part.committed for part in parts]


def audited(world: World) -> list[dict[str, Any]]:
    wanted = sa.select(Operation.detail).where(Operation.action == "offsets.reset").order_by(Operation.id)
    with world.engine.connect() as connection:
        return list(connection.execute(wanted).scalars())


@pytest.mark.timeout(150)
@pytest.mark.parametrize("protocol", ["consumer", "classic-eager"])
def test_a_group_with_members_is_refused_by_us_and_by_the_broker(protocol: str, world: World) -> None:
    world.host("relay", "sync")
    world.start("processor", group_protocol=protocol, processing_seconds=FOR_EVER)
    world.wait_for(world.submit(3), "processing")
    reset = mover(world)
    plan = reset.plan(Target("latest"))
    assert plan.why_not == (
        "Kafka refuses while the group has a member: stop the processors first (Workers, scale to 0)"
    )
    with pytest.raises(CannotReset, match="has a member"):
        reset.apply(plan, Target("latest"), "cancel", "test")
    admin = KafkaAdmin(world.settings)
    with pytest.raises(ValueError, match="Kafka refuses"):
        admin.move_offsets(world.settings.kafka_group, world.settings.topic_create, plan.offsets)
    assert audited(world) == []


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("then", "status"), [("resubmit", "completed"), ("cancel", "cancelled")])
def test_what_a_reset_skips_is_resubmitted_or_cancelled(then: Unfinished, status: str, world: World) -> None:
    world.host("relay", "sync")
    done = world.submit(6)
    (quick,) = world.start("processor")
    world.wait_for(done)
    stop(world, quick)
    (slow,) = world.start("processor", processing_seconds=FOR_EVER)
    begun = world.submit(6)
    world.wait_for(begun, "processing")
    stop(world, slow)
    foreign = world.request_on(1, 2)  # no publication, no header: only the record says whose it is

    reset, target = mover(world), Target("latest")
    plan = reset.plan(target)
    assert plan.why_not is None
    assert plan.skipped == sorted([*begun, *foreign])
    assert [len(move.skipped) for move in plan.moves] == [2, 4, 2]
    late = world.request_on(2, 1)  # after the preview, and beyond what it moves to
    result = reset.apply(plan, target, then, "test")
    assert result.cancelled == plan.skipped
    assert result.resubmitted == (plan.skipped if then == "resubmit" else [])
    assert committed(world) == [move.new for move in plan.moves]
    (detail,) = audited(world)
    assert (detail["to"], detail["unfinished"], detail["then"]) == ("latest", 8, then)

    world.start("processor")
    world.wait_for([*done, *late])
    world.wait_for(plan.skipped, status)
    runs = {world.file(file_id).run for file_id in plan.skipped}
    assert runs == {2 if then == "resubmit" else 1}
    report = world.assert_clean()
    assert report.submitted == 15
    assert report.in_flight == 0


@pytest.mark.timeout(150)
def test_records_that_are_read_again_change_nothing_that_has_ended(world: World) -> None:
    world.host("relay", "sync")
    ids = world.submit(9)
    (member,) = world.start("processor")
    world.wait_for(ids)
    before = {file_id: world.file(file_id) for file_id in ids}
    member.terminate(20)
    reset = mover(world)
    wait_until(lambda: reset.why_not() is None, EMPTY_SECONDS, "the group has no members", every=0.3)

    plan = reset.plan(Target("shift", by=-2))
    assert [move.difference for move in plan.moves] == [-2, -2, -2]
    assert (plan.repeated, plan.skipped) == (6, [])
    reset.apply(plan, Target("shift", by=-2), "cancel", "test")
    world.start("processor")
    wait_until(lambda: sum(map(len, world.results().values())) == 15, 30, "six records were done again")
    after = {file_id: world.file(file_id) for file_id in ids}
    assert {one.sha256 for one in after.values()} == {one.sha256 for one in before.values()}
    assert {one.finished_at for one in after.values()} == {one.finished_at for one in before.values()}
    assert world.assert_clean().duplicate_results == 6


def test_a_skip_without_a_record_of_it_is_a_broken_promise(world: World) -> None:
    world.request_on(0, 2)
    KafkaAdmin(world.settings).move_offsets(world.settings.kafka_group, world.settings.topic_create, {0: 1})
    assert world.verify().findings["committed-unfinished"].examples == ["partition 0, offset 0"]


def test_a_time_is_the_first_record_from_then_on(world: World) -> None:
    """Partition 0 has two records before it and one after it, the others only some before."""
    for partition in range(3):
        world.request_on(partition, 2)
    time.sleep(0.01)
    moment = datetime.now(UTC)
    time.sleep(0.01)
    world.request_on(0, 1)
    plan = mover(world).plan(Target("time", at=moment))
    assert [(move.current, move.new, len(move.skipped)) for move in plan.moves] == [(0, 2, 2)] * 3


def test_a_plan_for_a_topic_that_was_recreated_since_is_refused(world: World) -> None:
    world.request_on(0, 2)
    reset = mover(world)
    plan = reset.plan(Target("latest"))
    topics.recreate_topic(world.settings, world.settings.topic_create)
    waiting = world.request_on(0, 2)
    with pytest.raises(CannotReset, match="was deleted and created again since the preview: preview the reset again"):
        reset.apply(plan, Target("latest"), "cancel", "test")
    assert committed(world) == [None] * 3
    assert set(world.statuses(waiting).values()) == {"pending"}
    assert audited(world) == []
    assert reset.apply(reset.plan(Target("latest")), Target("latest"), "cancel", "test").cancelled == waiting


def test_the_commits_of_a_reset_name_their_topic_and_count_for_no_other(world: World) -> None:
    topic, group, admin = world.settings.topic_create, world.settings.kafka_group, KafkaAdmin(world.settings)
    for partition in range(3):
        world.request_on(partition, 3)
    reset = mover(world)
    plan = reset.plan(Target("shift", by=2))
    reset.apply(plan, Target("shift", by=2), "cancel", "test")
    found = {topic_of(part.metadata) for part in topics.committed(world.settings).values()}
    assert found == {admin.identities([topic])[topic].topic_id}
    assert committed(world) == [2, 2, 2]
    topics.recreate_topic(world.settings, topic)
    for partition in range(3):
        world.request_on(partition, 4)
    # As by a reset that was under way while the topic was recreated.
    admin.move_offsets(group, topic, {0: 2, 1: 2}, plan.topic_id)
    topics.commit(world.settings, 2, 2)  # as a foreign worker commits
    assert committed(world) == [None, None, 2]
    assert [part.lag for part in admin.offsets(group, topic)] == [4, 4, 2]
    assert [move.current for move in reset.plan(Target("latest")).moves] == [0, 0, 2]


def test_a_commit_that_the_broker_does_not_take_gives_the_requests_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = world.request_on(0, 3)
    reset = mover(world)
    plan: Plan = reset.plan(Target("latest"))

    def refuse(*_given: object) -> None:
        raise ValueError("Kafka refuses: somebody has just joined")

    monkeypatch.setattr(KafkaAdmin, "move_offsets", refuse)
    with pytest.raises(CannotReset, match="just joined"):
        reset.apply(plan, Target("latest"), "cancel", "test")
    assert world.statuses(ids) == dict.fromkeys(ids, "pending")
    assert {world.file(file_id).run for file_id in ids} == {2}  # through the outbox once more
    (detail,) = audited(world)
    assert detail["refused"] == "Kafka refuses: somebody has just joined"
    with world.engine.connect() as connection:
        assert offset_resets(connection, world.settings.kafka_group, world.settings.topic_create) == []


def test_over_rest_a_dry_run_is_the_default(rest: Rest) -> None:
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
def test_over_rest_what_makes_no_sense_is_refused(body: dict[str, object], rest: Rest) -> None:
    answer = rest.client.post("/api/offsets/reset", json=body)
    assert answer.status_code == 422, answer.text


def command(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`filemill offsets …` on the world's servers."""
    argv = [sys.executable, "-m", "filemill", "offsets", *arguments]
    environment = {**os.environ, **as_environment(world.settings)}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_previews_and_resets(world: World) -> None:
    ids = world.request_on(1, 3)
    told = command(world, "preview", "--by", "2", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["moves"][1] == {"partition": 1, "current": 0, "new": 2, "skipped": ids[:2]}
    assert committed(world) == [None, None, None]
    done = command(world, "reset", "--to", "latest", "--cancel", "--yes")
    assert done.returncode == 0, done.stderr
    assert "1 partition moved; 3 cancelled" in done.stderr
    assert committed(world) == [None, 3, None]
    assert audited(world)[0]["then"] == "cancel"
    for wrong in ([], ["--to", "noon"], ["--to", "latest", "--by", "1"]):
        assert command(world, "preview", *wrong).returncode == 2


@pytest.mark.parametrize(
    "at",
    ["1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.998Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
)
def test_a_time_that_kafka_would_take_for_something_else_is_refused(at: str, rest: Rest) -> None:
    answer = rest.client.post("/api/offsets/reset", json={"to": "time", "at": at})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == "at"


def test_the_first_moment_of_1970_is_the_beginning(rest: Rest) -> None:
    answer = rest.client.post("/api/offsets/reset", json={"to": "time", "at": "1970-01-01T00:00:00Z"})
    assert answer.status_code == 200, answer.text
