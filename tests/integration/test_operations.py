"""Operations on files and workers: cancel, retry, delete, replay, quiet, resume; `verify` stays clean."""

import json
import os
import subprocess
import sys

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import Operation, Tombstone, Worker, WorkerEventRow
from filemill.config.settings import as_environment
from filemill.domain.dead_letters import DeadLetter, ReplayRefusal, reason_counts
from filemill.domain.deliveries import DeliveryOutcome
from filemill.domain.file_actions import RefusalCode
from filemill.domain.worker_commands import WorkerCommandKind
from filemill.entrypoints import bootstrap
from filemill.queries.dead_letters import read_dead_letters
from filemill.queries.file_timeline import file_timeline
from filemill.services import dead_letters
from filemill.services.operations import Operations, UnknownWorker
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until
from tests.principals import TEST

# Long enough to act while a record is in progress, short enough to wait for.
WORK_SECONDS = 3.0


@pytest.fixture
def operations(harness: PipelineHarness) -> Operations:
    return bootstrap.operations(harness.settings, harness.engine)


def produce_invalid_record(harness: PipelineHarness, file_id: int) -> None:
    """Produce a request that always fails, for an existing file."""
    value = {"fileId": file_id, "title": " ", "description": "", "timestamp": "2026-01-04T12:00:00Z"}
    topics.publish(harness.settings, harness.settings.topic_create, [json.dumps(value).encode()])


def read_letters(harness: PipelineHarness) -> list[DeadLetter]:
    return read_dead_letters(harness.settings, bootstrap.kafka_admin(harness.settings), harness.engine)


def event_kinds(harness: PipelineHarness) -> set[str]:
    with harness.engine.connect() as connection:
        return set(connection.execute(sa.select(WorkerEventRow.kind)).scalars())


def recorded(harness: PipelineHarness) -> list[str]:
    with harness.engine.connect() as connection:
        return list(connection.execute(sa.select(Operation.action).order_by(Operation.id)).scalars())


def test_a_worker_stops_a_cancelled_file_and_the_file_can_be_retried(
    harness: PipelineHarness, operations: Operations
) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor", processing_seconds=WORK_SECONDS * 4)
    ids = harness.submit(6)
    harness.wait_for(ids, "processing")

    outcome = operations.cancel([*ids[:2], 999_999], TEST)
    assert outcome.done == ids[:2]
    assert [(one.file_id, one.code) for one in outcome.refused] == [(999_999, RefusalCode.NOT_FOUND)]

    wait_until(lambda: "cancelled" in event_kinds(harness), WORK_SECONDS, "the worker reports the cancellation")
    harness.wait_for(ids[2:])
    assert set(harness.statuses(ids[:2]).values()) == {"cancelled"}
    with harness.engine.connect() as connection:
        (delivery,) = file_timeline(connection, ids[0]).deliveries
    assert (delivery.worker_id, delivery.outcome) == ("processor-1", DeliveryOutcome.CANCELLED)
    assert (delivery.ended_by, delivery.ended_at is not None) == ("test", True)
    assert not set(ids[:2]) & set(harness.results())
    harness.assert_clean()

    assert operations.retry(ids[:2], TEST).done == ids[:2]
    harness.wait_for(ids)
    assert {harness.file(file_id).run for file_id in ids[:2]} == {2}
    report = harness.assert_clean()
    assert (report.submitted, report.completed) == (6, 6)
    assert recorded(harness) == ["cancel", "retry"]


def test_refused_operations_are_not_in_the_audit(harness: PipelineHarness, operations: Operations) -> None:
    (pending,) = harness.submit(1)
    for _ in range(3):
        assert operations.retry([pending, 999_999], TEST).done == []
        assert operations.delete([pending], TEST).done == []
        assert operations.cancel([999_999], TEST).done == []
    assert recorded(harness) == []
    operations.cancel([pending, 999_999], TEST)
    assert recorded(harness) == ["cancel"]


def test_an_unpublished_file_is_not_published_after_its_cancellation(
    harness: PipelineHarness, operations: Operations
) -> None:
    ids = harness.submit(3)
    operations.cancel(ids[:1], TEST)
    harness.run_in_threads("relay", "sync")
    harness.start("processor")
    harness.wait_for(ids[1:])
    published = {
        json.loads(seen.value or b"{}")["fileId"]
        for seen in topics.read(harness.settings, harness.settings.topic_create)
    }
    assert published == set(ids[1:])
    assert harness.assert_clean().cancelled == 1


def test_a_deleted_file_leaves_a_tombstone_and_no_object(harness: PipelineHarness, operations: Operations) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor")
    ids = harness.submit(3)
    harness.wait_for(ids)
    outcome = operations.delete([ids[0], 12345], TEST)
    assert outcome.done == [ids[0]]
    with harness.engine.connect() as connection:
        (tombstone,) = connection.execute(sa.select(Tombstone.file_id, Tombstone.status))
    assert tuple(tombstone) == (ids[0], "completed")
    report = harness.assert_clean()
    assert (report.submitted, report.deleted, report.objects) == (2, 1, 2)

    # A late result for it, such as one of a worker that was stopped, is not reported as rejected.
    late = {"fileId": ids[0], "s3Location": "x", "status": "completed", "timestamp": "2026-01-04T12:00:00Z"}
    topics.publish(harness.settings, harness.settings.topic_created, [json.dumps(late).encode()])
    survivors = harness.submit(1)
    harness.wait_for(survivors)
    assert harness.rejected() == []


def test_a_pending_file_cannot_be_deleted_or_retried(harness: PipelineHarness, operations: Operations) -> None:
    (waiting,) = harness.submit(1)
    (refused,) = operations.delete([waiting], TEST).refused
    assert (refused.file_id, refused.code) == (waiting, RefusalCode.WRONG_STATUS)
    assert operations.retry([waiting], TEST).done == []


def test_dead_letters_are_replayed_once_after_a_dry_run(harness: PipelineHarness) -> None:
    harness.run_in_threads("sync")
    harness.start("processor")
    ids = [request.file_id for request in harness.insert_rows(3)]
    for file_id in ids:
        produce_invalid_record(harness, file_id)
    topics.publish(harness.settings, harness.settings.topic_create, [b"not json"])
    harness.wait_for(ids, "failed")
    found = wait_until(
        lambda: read_letters(harness) if len(read_letters(harness)) == 4 else [], 10, "four dead letters"
    )
    assert reason_counts(letter for letter in found if letter.file_id) == {"title: must not be blank": 3}
    assert [letter.refusal_code for letter in found if letter.file_id is None] == [ReplayRefusal.NO_FILE_ID]

    dry = dead_letters.replay(harness.engine, found, principal=TEST, rate=100, dry_run=True)
    assert (dry.files, list(dry.refusal_codes.values())) == (ids, [ReplayRefusal.NO_FILE_ID])
    assert dry.refused.keys() == dry.refusal_codes.keys()
    assert set(harness.statuses(ids).values()) == {"failed"}

    harness.run_in_threads("relay")
    real = dead_letters.replay(harness.engine, found, principal=TEST, rate=100, dry_run=False)
    assert real.files == ids
    harness.wait_for(ids)
    after = read_letters(harness)
    assert [letter.still_broken for letter in after if letter.file_id] == [False] * 3
    assert dead_letters.replay(harness.engine, after, principal=TEST, rate=100, dry_run=False).files == []
    assert recorded(harness) == ["dlq.replay"]
    harness.assert_clean()


def test_a_file_that_keeps_failing_is_not_replayed_forever(harness: PipelineHarness) -> None:
    harness.run_in_threads("sync")
    harness.start("processor")
    (request,) = harness.insert_rows(1)
    produce_invalid_record(harness, request.file_id)
    harness.wait_for([request.file_id], "failed")
    found = wait_until(lambda: read_letters(harness), 10, "the dead letter")
    result = dead_letters.replay(harness.engine, found, principal=TEST, rate=100, dry_run=False, max_runs=1)
    assert result.files == []
    assert result.refusal_codes == {found[0].place: ReplayRefusal.TOO_MANY_RUNS}
    assert result.refused == {
        found[0].place: f"file {request.file_id} failed in run 1; the maximum number of runs is 1"
    }


def test_a_command_for_an_unknown_worker_is_refused(harness: PipelineHarness, operations: Operations) -> None:
    with pytest.raises(UnknownWorker, match="there is no worker named nobody"):
        operations.command_workers(WorkerCommandKind.QUIET, "nobody", TEST)
    for act in ("quiet", "resume"):
        told = subprocess.run(
            [sys.executable, "-m", "filemill", "workers", act, "nobody"],
            env=os.environ | as_environment(harness.settings),
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 1
        assert "there is no worker named nobody" in " ".join(told.stderr.split())
    assert recorded(harness) == []
    assert list(topics.read(harness.settings, harness.settings.topic_worker_commands)) == []


def test_a_quiet_worker_starts_no_record_until_it_is_resumed(harness: PipelineHarness, operations: Operations) -> None:
    harness.run_in_threads("relay", "sync")
    (processor,) = harness.start("processor")
    harness.wait_for(harness.submit(2))
    operations.command_workers(WorkerCommandKind.QUIET, None, TEST)
    wait_until(lambda: processor.has_logged("Applied a command", command="quiet"), 10, "the worker has the command")
    wait_until(lambda: "quieted" in event_kinds(harness), 10, "the worker reports it")

    def reported_paused() -> bool:
        with harness.engine.connect() as connection:
            vitals = connection.execute(sa.select(Worker.vitals)).scalar_one()
        return bool(vitals and vitals.get("paused") and vitals.get("quiet"))

    wait_until(reported_paused, 10, "its heartbeat reports quiet")
    ids = harness.submit(3)
    # It sends heartbeats meanwhile: two of them without starting the new files.
    with harness.engine.connect() as connection:
        heard = connection.execute(sa.select(Worker.heard_at)).scalar_one()

    def two_heartbeats_later() -> bool:
        with harness.engine.connect() as connection:
            now = connection.execute(sa.select(Worker.heard_at)).scalar_one()
        return (now - heard).total_seconds() > 4

    wait_until(two_heartbeats_later, 15, "two more heartbeats")
    assert set(harness.statuses(ids).values()) == {"pending"}
    operations.command_workers(WorkerCommandKind.RESUME, None, TEST)
    harness.wait_for(ids)
    harness.assert_clean()
