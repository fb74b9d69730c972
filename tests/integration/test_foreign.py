"""A file service with only the four fields of the reference design, alone and beside our processors."""

import json
import sys
from pathlib import Path

from filemill.config.settings import as_environment
from filemill.domain.content import sha256_hex
from filemill.domain.messages import FileCreated, decode
from filemill.entrypoints.bootstrap import s3_client
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import Process, wait_until

NOW = "2026-01-04T12:00:00Z"
SERVICE = Path(__file__).with_name("foreign_service.py")


def start_foreign_service(harness: PipelineHarness) -> Process:
    settings = harness.settings
    environment = as_environment(settings) | {
        "GROUP": settings.kafka_group,
        "CREATE": settings.topic_create,
        "CREATED": settings.topic_created,
        "BUCKET": settings.s3_bucket,
    }
    # It gets the servers' addresses and keys from `filemill env`, as a person would pass them.
    command = 'eval "$("$0" -m filemill env)" && exec "$0" "$1"'
    return harness.processes.run("foreign", ["sh", "-c", command, sys.executable, str(SERVICE)], environment)


def test_a_foreign_service_completes_and_fails_files(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay")
    harness.processes.start("sync")
    start_foreign_service(harness)
    good = harness.submit(5)
    bad = harness.submit(1, title="bad")
    harness.wait_for(good)
    harness.wait_for(bad, "failed")

    def hashed() -> bool:
        return all(harness.file(file_id).sha256 for file_id in good)

    wait_until(hashed, 20, "the sync has stored hash and size of the objects")
    for file_id in good:
        row, body = harness.file(file_id), harness.download(file_id)
        assert (row.s3_location, row.worker_id) == (f"foreign/{file_id}.txt", None)
        assert (row.sha256, row.size) == (sha256_hex(body), len(body))
        assert body.decode().startswith(row.title)
    report = harness.assert_clean()
    assert (report.completed, report.failed, report.foreign, report.dead_letters) == (5, 1, 5, 0)


def test_a_foreign_service_and_ours_share_one_group(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    start_foreign_service(harness)
    ids = harness.submit(6)
    harness.wait_for(ids)
    harness.start("processor")
    harness.wait_for_assignment(2, 1)
    more = harness.submit(30)
    harness.wait_for(more)
    assert {harness.file(file_id).worker_id for file_id in more} == {None, "processor-1"}
    assert harness.assert_clean().foreign >= 16


# Keys that S3 accepts, but not every client can express.
ODD_KEYS = ["a\nb.txt", "ünï#?%20 &+.txt", "folder/", " "]
# A likely misreading of the reference design; there is no such object.
NO_KEY = "s3://bucket/key.txt"


def test_verify_reads_objects_of_a_foreign_service_under_any_key(harness: PipelineHarness) -> None:
    harness.run_in_threads("sync")
    client, bucket = s3_client(harness.settings), harness.settings.s3_bucket
    requests = harness.insert_rows(len(ODD_KEYS) + 1)
    for request, key in zip(requests, [*ODD_KEYS, NO_KEY], strict=True):
        if key in ODD_KEYS:
            client.put_object(Bucket=bucket, Key=key, Body=b"foreign")
        answer = {"fileId": request.file_id, "s3Location": key, "status": "completed", "timestamp": NOW}
        topics.publish(harness.settings, harness.settings.topic_created, [json.dumps(answer).encode()])
    harness.wait_for([request.file_id for request in requests])
    report = harness.verify()
    assert report.foreign == len(requests)
    missing = [str(requests[-1].file_id)]
    assert {check: found.examples for check, found in report.findings.items()} == {"object-missing": missing}


def test_requests_have_exactly_the_fields_of_the_reference_design(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay")
    (file_id,) = harness.submit(1, title="A title", description="Text")
    requests = wait_until(
        lambda: topics.read(harness.settings, harness.settings.topic_create), 20, "the request is on the topic"
    )
    row = harness.file(file_id)
    moment = row.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    expected = f'{{"fileId":{file_id},"title":"A title 0","description":"Text","timestamp":"{moment}"}}'
    assert [(one.key, one.value) for one in requests] == [(None, expected.encode())]


def test_timestamps_without_a_zone_are_utc_and_unknown_fields_are_ignored() -> None:
    value = b'{"fileId": 7, "status": "failed", "s3Location": null, "timestamp": "2026-01-04T12:00:00", "mood": "good"}'
    event = decode(value, FileCreated)
    assert event.timestamp.isoformat() == "2026-01-04T12:00:00+00:00"
