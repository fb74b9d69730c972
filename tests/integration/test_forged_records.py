"""Whoever can write to Kafka breaks at most their own file."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, WorkerEventRow
from filemill.domain.content import render, sha256_hex
from filemill.domain.file_actions import RefusalCode
from filemill.domain.files import object_key
from filemill.domain.messages import FileCreate, encode
from filemill.domain.worker_events import DEAD_AFTER_SECONDS, WorkerCondition
from filemill.entrypoints import bootstrap
from filemill.queries.workers import list_workers
from filemill.services.operations import Operations
from filemill.verification.findings import FindingCode
from tests.integration import topics
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import wait_until
from tests.principals import TEST
from tests.servers import RunningServers

NOW = "2026-01-04T12:00:00Z"
GREATEST_RUN = 2**31 - 1


@pytest.fixture(scope="module")
def running(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PipelineHarness]:
    folder: Path = tmp_path_factory.mktemp("forged")
    with open_harness(servers, folder) as harness:
        harness.run_in_threads("relay", "sync")
        harness.start("processor")
        yield harness


def operations(harness: PipelineHarness) -> Operations:
    return bootstrap.operations(harness.settings, harness.engine)


def forge(harness: PipelineHarness, **fields: object) -> None:
    """Write a result, and wait until it is counted as refused."""
    result = {"s3Location": None, "status": "completed", "timestamp": NOW, **fields}
    (offset,) = topics.publish(
        harness.settings, harness.settings.topic_created, [json.dumps(result).encode()], partition=0
    )
    place = (harness.settings.topic_created, 0, offset)

    def counted() -> bool:
        return place in {(row["topic"], row["partition"], row["offset"]) for row in harness.rejected()}

    wait_until(counted, 10, "the forged result is counted")


def keep(harness: PipelineHarness, count: int) -> list[int]:
    """Files whose requests never reach a worker: somebody else answers for them."""
    return [request.file_id for request in harness.insert_rows(count)]


def test_a_result_cannot_take_another_files_object_and_a_delete_cannot_remove_it(running: PipelineHarness) -> None:
    (victim,) = running.submit(1)
    running.wait_for([victim])
    (forger,) = keep(running, 1)
    key = running.file(victim).s3_location
    assert key is not None
    for alias in (key, f"/{key}", f"x/../{key}"):
        forge(running, fileId=forger, s3Location=alias)
    assert (running.file(forger).status, running.file(forger).s3_location) == ("pending", None)
    reasons = {row["reason"] for row in running.rejected()}
    assert f"s3Location is a key of file {victim}" in reasons

    # A row of a version that took such a result.
    with running.engine.begin() as connection:
        connection.execute(
            sa.update(File).where(File.id == forger).values(status="completed", s3_location=f"//{key}", sha256="x")
        )
    assert operations(running).delete([forger], TEST).done == [forger]
    assert running.download(victim) == running.expected_content(victim)


def codes_of_dead_letters(harness: PipelineHarness, file_id: int) -> list[bytes | None]:
    letters = topics.read(harness.settings, harness.settings.topic_dead_letters)
    return [
        dict(letter.headers).get("filemill-code")
        for letter in letters
        if json.loads(letter.value or b"{}").get("fileId") == file_id
    ]


def test_a_forged_request_does_not_replace_the_object_of_the_file_that_it_names(running: PipelineHarness) -> None:
    (victim,) = running.submit(1)
    running.wait_for([victim])
    row, made = running.file(victim), running.expected_content(victim)
    forged = FileCreate(victim, "Forged", "by somebody else", row.created_at)
    # The genuine record once more, as after a reset: it finds its own bytes, and that is no fault.
    genuine = FileCreate(victim, row.title, row.description, row.created_at)
    topics.publish(running.settings, running.settings.topic_create, [encode(genuine), encode(forged)], partition=0)
    wait_until(lambda: len(running.results().get(victim, [])) == 3, 10, "both are answered")

    statuses = [result.status for result in running.results()[victim]]
    assert sorted(statuses) == ["completed", "completed", "failed"]
    assert codes_of_dead_letters(running, victim) == [b"object_exists"]
    assert running.download(victim) == made
    after = running.file(victim)
    assert (after.status, after.sha256) == ("completed", row.sha256)


def test_a_forged_request_that_is_processed_first_is_seen_by_the_dead_letter_and_by_verify(
    running: PipelineHarness,
) -> None:
    (request,) = running.insert_rows(1)
    forged = FileCreate(request.file_id, "Forged", "by somebody else", request.timestamp)
    topics.publish(running.settings, running.settings.topic_create, [encode(forged)], partition=0)
    running.wait_for([request.file_id])
    topics.publish(running.settings, running.settings.topic_create, [encode(request)], partition=0)
    wait_until(lambda: len(running.results()[request.file_id]) == 2, 10, "the genuine one is answered")

    assert codes_of_dead_letters(running, request.file_id) == [b"object_exists"]
    assert str(request.file_id) in running.verify().findings[FindingCode.RENDER_DIFFERS].examples


def test_a_request_whose_key_is_taken_fails_and_is_retried_when_the_object_is_deleted(running: PipelineHarness) -> None:
    (request,) = running.insert_rows(1)
    client, bucket = bootstrap.s3_client(running.settings), running.settings.s3_bucket
    key = object_key(request.file_id, request.timestamp)
    metadata = {"sha256": sha256_hex(render(request.title, request.description, request.timestamp))}
    client.put_object(Bucket=bucket, Key=key, Body=b"forged", Metadata=metadata)
    topics.publish(running.settings, running.settings.topic_create, [encode(request)])
    running.wait_for([request.file_id], "failed")
    assert codes_of_dead_letters(running, request.file_id) == [b"object_exists"]
    assert "delete it and retry the file" in (running.file(request.file_id).error or "")
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"forged"

    client.delete_object(Bucket=bucket, Key=key)
    assert operations(running).retry([request.file_id], TEST).done == [request.file_id]
    running.wait_for([request.file_id])
    assert running.download(request.file_id) == running.expected_content(request.file_id)


def test_two_files_cannot_share_a_foreign_object_and_the_last_one_takes_it_along(running: PipelineHarness) -> None:
    client, bucket = bootstrap.s3_client(running.settings), running.settings.s3_bucket
    client.put_object(Bucket=bucket, Key="made/by-hand.txt", Body=b"foreign")
    first, second = keep(running, 2)
    answer = {"fileId": first, "s3Location": "made/by-hand.txt", "status": "completed", "timestamp": NOW}
    topics.publish(running.settings, running.settings.topic_created, [json.dumps(answer).encode()])
    running.wait_for([first])
    forge(running, fileId=second, s3Location="made//by-hand.txt")
    assert running.file(second).status == "pending"

    with running.engine.begin() as connection:
        connection.execute(
            sa.update(File).where(File.id == second).values(status="completed", s3_location="/made/by-hand.txt")
        )
    operations(running).delete([first], TEST)
    assert client.get_object(Bucket=bucket, Key="made/by-hand.txt")["Body"].read() == b"foreign"
    operations(running).delete([second], TEST)
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket=bucket, Key="made/by-hand.txt")


def test_a_forged_run_is_counted_and_neither_it_nor_its_neighbours_lose_their_retry(running: PipelineHarness) -> None:
    aimed, neighbour, old = keep(running, 3)
    forge(running, fileId=aimed, run=GREATEST_RUN, status="failed")
    with running.engine.begin() as connection:
        failed = sa.update(File).values(status="failed")
        connection.execute(failed.where(File.id.in_([aimed, neighbour])))
        connection.execute(failed.where(File.id == old).values(run=GREATEST_RUN))  # an older version took the result
    outcome = operations(running).retry([aimed, neighbour, old], TEST)
    assert outcome.done == [aimed, neighbour]
    assert [(one.file_id, one.code) for one in outcome.refused] == [(old, RefusalCode.LAST_RUN)]
    running.wait_for([aimed, neighbour])
    assert [running.file(file_id).run for file_id in (aimed, neighbour)] == [2, 2]


def test_with_a_key_only_signed_results_state_hash_size_and_worker(servers: RunningServers, tmp_path: Path) -> None:
    with open_harness(servers, tmp_path, result_key="a key that only this deployment has") as harness:
        harness.run_in_threads("relay", "sync")
        processor = harness.start("processor")[0]
        (own,) = harness.submit()
        harness.wait_for([own])
        processor.kill()
        (request,) = harness.insert_rows(1)
        key = object_key(request.file_id, request.timestamp)
        body = render(request.title, request.description, request.timestamp)
        bootstrap.s3_client(harness.settings).put_object(Bucket=harness.settings.s3_bucket, Key=key, Body=body)
        forged = {
            "fileId": request.file_id,
            "s3Location": key,
            "status": "completed",
            "timestamp": NOW,
            "run": 1,
            "sha256": sha256_hex(b"other content"),
            "size": 1,
            "workerId": processor.name,
            "partition": 0,
            "offset": 0,
        }
        topics.publish(harness.settings, harness.settings.topic_created, [json.dumps(forged).encode()])
        harness.wait_for([request.file_id])
        with harness.engine.connect() as connection:
            columns = sa.select(File.id, File.worker_id, File.sha256, File.size)
            rows = {row.id: row for row in connection.execute(columns)}
        assert rows[own].worker_id == processor.name
        assert rows[own].sha256 is not None
        assert rows[request.file_id].worker_id is None
        assert rows[request.file_id].sha256 != forged["sha256"]
        assert rows[request.file_id].size != forged["size"]


def test_an_event_of_the_year_9999_does_not_pin_its_worker(running: PipelineHarness) -> None:
    (worker,) = [member.name for member in running.processes.processes if member.name.startswith("processor")]
    forged = {"kind": "stopped", "workerId": worker, "timestamp": "9999-12-31T23:59:59Z"}
    (offset,) = topics.publish(
        running.settings, running.settings.topic_worker_events, [json.dumps(forged).encode()], partition=0
    )

    def stored() -> bool:
        place = sa.select(WorkerEventRow.at).where(WorkerEventRow.partition == 0, WorkerEventRow.offset == offset)
        with running.engine.connect() as connection:
            return connection.execute(sa.select(sa.exists(place))).scalar_one()

    def alive() -> bool:
        with running.engine.connect() as connection:
            (view,) = [one for one in list_workers(connection) if one.id == worker]
        return view.condition is WorkerCondition.IDLE and view.heard_seconds_ago < DEAD_AFTER_SECONDS

    wait_until(stored, 10, "the forged event is stored")
    wait_until(alive, 10, "the next heartbeat counts")


def test_progress_of_a_later_run_does_not_hold_a_file_in_processing(running: PipelineHarness) -> None:
    (file_id,) = keep(running, 1)
    known = {"workerId": "w", "partition": 0, "offset": 0, "attempt": 1, "step": 1, "steps": 6, "timestamp": NOW}
    value = json.dumps({"fileId": file_id, "run": 2, **known}).encode()
    topics.publish(running.settings, running.settings.topic_progress, [value])
    wait_until(
        lambda: (
            f"run 2 of file {file_id} has not started: the file is in run 1"
            in {row["reason"] for row in running.rejected()}
        ),
        10,
        "the progress is counted",
    )
    assert running.file(file_id).status == "pending"
    answer = {"fileId": file_id, "s3Location": f"file-{file_id}-1.txt", "status": "completed", "timestamp": NOW}
    topics.publish(running.settings, running.settings.topic_created, [json.dumps(answer).encode()])
    running.wait_for([file_id])
