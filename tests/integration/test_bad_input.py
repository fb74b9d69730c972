"""What no well-behaved client sends: no crash, no crash loop, no blocked partition, and every case is counted.

One pipeline for all: what a test puts in must do no harm to the tests after it either.
"""

import json
from collections.abc import Iterator

import pytest

from filemill.domain.messages import encode
from tests.integration import topics
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import wait_until
from tests.servers import RunningServers

NOW = "2026-01-04T12:00:00.000Z"
LARGE = 900_000
# A request for a file that no row knows: nobody but the database could tell it from one of ours.
UNKNOWN_ID = 2**62


@pytest.fixture(scope="module")
def running(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PipelineHarness]:
    with open_harness(servers, tmp_path_factory.mktemp("logs")) as harness:
        harness.start("sync", "processor")
        yield harness
        assert [member.name for member in harness.processes.processes if not member.alive] == []


def document(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def request(**fields: object) -> bytes:
    return document(**{"fileId": 1, "title": "t", "description": "", "timestamp": NOW, **fields})


UNREADABLE: dict[str, bytes | None] = {
    "no value": None,
    "an empty value": b"",
    "broken JSON": b'{"fileId": 1, "title": ',
    "no JSON at all": b"\x00\xff\xfe\x80",
    "a list": b"[]",
    "null": b"null",
    "a text": b'"fileId"',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "nested too deeply": b'{"fileId": ' + b"[" * 200_000,
    "no fields": b"{}",
    "900 KB of nothing": b" " * LARGE,
    "an id that is text": request(fileId="1"),
    "an id that is a fraction": request(fileId=1.5),
    "an id that is true": request(fileId=True),
    "an id of zero": request(fileId=0),
    "a negative id": request(fileId=-1),
    "a huge id": request(fileId=2**63),
    "an endless id": b'{"fileId": ' + b"9" * 10_000 + b"}",
}
BAD_REQUESTS: dict[str, bytes] = {
    "a blank title": request(title=" "),
    "a title that is too long": request(title="x" * 256),
    "a title with a NUL": request(title="a\0b"),
    "a title with half a surrogate pair": request(title="\ud83d"),
    "no title": document(fileId=1, description="", timestamp=NOW),
    "a title that is null": request(title=None),
    "a description of a wrong type": request(description=["a"]),
    "a description with a NUL": request(description="\0"),
    "a description of 900 KB": request(description="x" * LARGE),
    "a timestamp that is a number": request(timestamp=1767528000),
    "a timestamp that is no moment": request(timestamp="2026-02-30T25:00:00Z"),
    "a timestamp before the year 1": request(timestamp="0001-01-01T00:00:00+14:00"),
    "a timestamp after the year 9999": request(timestamp="9999-12-31T23:59:59-14:00"),
}


def test_bad_requests_go_to_the_dead_letters_untouched_and_their_neighbours_complete(running: PipelineHarness) -> None:
    settings = running.settings
    # The bad requests name file 1. Once its run has ended, what becomes of them cannot be its result.
    good = running.publish_requests(0, 1)
    running.wait_for(good)
    values = [*UNREADABLE.values(), *BAD_REQUESTS.values()]
    for value in values:
        topics.publish(settings, settings.topic_create, [value], partition=0)
        good += running.publish_requests(0, 1)
    running.wait_for(good)
    letters = topics.read(settings, settings.topic_dead_letters)
    by_offset = sorted(letters, key=lambda letter: int(letter.headers["filemill-offset"]))
    assert [letter.value for letter in by_offset] == values
    assert all(letter.headers["filemill-reason"] for letter in letters)
    assert {letter.headers["filemill-partition"] for letter in letters} == {b"0"}
    assert {letter.headers["filemill-attempts"] for letter in letters} == {b"1"}
    wait_until(
        lambda: topics.committed(settings)[0].offset == 1 + 2 * len(values),
        10,
        "the partition is committed to its end",
    )


def test_a_file_whose_request_is_bad_fails_with_the_reason_on_its_row(running: PipelineHarness) -> None:
    settings = running.settings
    file_id = running.insert_rows(1)[0].file_id
    headers = {"filemill-run": b"not a number", "filemill-publish-number": b"-1", "traceparent": b"\xff"}
    topics.publish(settings, settings.topic_create, [request(fileId=file_id, title="")], partition=1, headers=headers)
    running.wait_for([file_id], "failed")
    assert "title: must not be blank" in (running.file(file_id).error or "")
    (letter,) = [
        one for one in topics.read(settings, settings.topic_dead_letters) if one.headers["filemill-partition"] == b"1"
    ]
    assert {name: letter.headers[name] for name in headers} == headers


def test_a_request_for_a_file_that_no_row_knows_is_made_and_its_event_is_counted(running: PipelineHarness) -> None:
    settings = running.settings
    topics.publish(settings, settings.topic_create, [request(fileId=UNKNOWN_ID)], partition=2)
    good = running.publish_requests(2, 1)
    running.wait_for(good)
    reason = f"no file has the id {UNKNOWN_ID}"
    wait_until(lambda: reason in {row["reason"] for row in running.rejected()}, 10, "its event is counted")
    report = running.verify()
    orphan = f"file-{UNKNOWN_ID}-1767528000000.txt"
    assert {check: found.examples for check, found in report.findings.items()} == {"orphan-object": [orphan]}


def result(**fields: object) -> bytes:
    return document(**{"fileId": 1, "s3Location": "somewhere", "status": "completed", "timestamp": NOW, **fields})


def progress(**fields: object) -> bytes:
    known = {"workerId": "w", "partition": 0, "offset": 0, "attempt": 1, "step": 1, "steps": 6, "timestamp": NOW}
    return document(**{"fileId": 1, **known, **fields})


def heartbeat(**fields: object) -> bytes:
    return document(**{"kind": "heartbeat", "workerId": "w", "timestamp": NOW, **fields})


BAD_RESULTS: dict[str, bytes] = {
    "an unknown status": result(status="done"),
    "a status of 900 KB": result(status="x" * LARGE),
    "a status with a NUL": result(status="\0"),
    "pending, which is no result": result(status="pending"),
    "completed without a location": result(s3Location=None),
    "a location with a NUL": result(s3Location="\0"),
    "a location longer than S3's": result(s3Location="x" * 1025),
    "a run of zero": result(run=0),
    "a run beyond the column": result(run=2**31),
    "a negative size": result(size=-1),
    "a partition beyond the column": result(partition=2**31),
    "an attempt of a wrong type": result(attempt="first"),
    "a worker with an endless name": result(workerId="w" * LARGE),
    "a hash with a NUL": result(sha256="\0"),
    "a time before the year 1": result(timestamp="0001-01-01T00:00:00+14:00"),
    "a start after the year 9999": result(startedAt="9999-12-31T23:59:59-14:00"),
    "a file that is unknown": result(fileId=UNKNOWN_ID + 1),
}
BAD_PROGRESS: dict[str, bytes] = {
    "a step beyond the column": progress(step=2**15),
    "a step of a wrong type": progress(step="one"),
    "no worker": document(fileId=1, partition=0, offset=0, attempt=1, step=1, steps=6, timestamp=NOW),
    "900 KB of a worker": progress(workerId="w" * LARGE),
    "a file that is unknown": progress(fileId=UNKNOWN_ID + 1),
}
BAD_EVENTS: dict[str, bytes] = {
    "an unknown kind": heartbeat(kind="sings"),
    "a worker whose name no index takes": heartbeat(workerId="".join(map(chr, range(0x4E00, 0x4E00 + 4000)))),
    "a cause with a NUL": heartbeat(cause="\0"),
    "a time without a zone": heartbeat(timestamp="2026-01-04T12:00:00"),
    "a time before the year 1": heartbeat(timestamp="0001-01-01T00:00:00+14:00"),
    "a file beyond the column": heartbeat(fileId=2**63),
    "vitals of a wrong type": heartbeat(vitals=[1]),
}


@pytest.mark.parametrize(
    ("topic", "bad"),
    [
        ("topic_created", BAD_RESULTS),
        ("topic_progress", BAD_PROGRESS),
        ("topic_worker_events", BAD_EVENTS),
    ],
    ids=["created", "progress", "worker-events"],
)
def test_bad_events_are_skipped_and_counted_and_those_behind_them_arrive(
    running: PipelineHarness, topic: str, bad: dict[str, bytes]
) -> None:
    settings, name = running.settings, str(getattr(running.settings, topic))
    offsets = topics.publish(settings, name, [*UNREADABLE.values(), *bad.values()], partition=2)

    def counted() -> set[int]:
        return {row["offset"] for row in running.rejected() if (row["topic"], row["partition"]) == (name, 2)}

    wait_until(lambda: counted() >= set(offsets), 10, "each is counted")
    assert max(len(row["reason"]) for row in running.rejected()) < 600, "a reason may quote the value, not carry it"
    running.wait_for(running.publish_requests(0, 1))


def test_bad_commands_are_skipped_and_the_next_good_one_is_followed(running: PipelineHarness) -> None:
    settings = running.settings
    processor = next(member for member in running.processes.processes if member.name.startswith("processor"))
    bad = [
        document(order="dance", timestamp=NOW),
        document(order="cancel", timestamp=NOW, files=[[0, 0]]),
        document(order="cancel", timestamp=NOW, files=[1]),
        document(order="quiet", timestamp="2026-01-04T12:00:00"),
        document(order="quiet", timestamp=NOW, workerId="somebody else"),
    ]
    topics.publish(settings, settings.topic_worker_commands, [*UNREADABLE.values(), *bad], partition=0)
    request = running.insert_rows(1)[0]
    cancel = document(order="cancel", timestamp=NOW, files=[[request.file_id, 1]])
    topics.publish(settings, settings.topic_worker_commands, [cancel], partition=0)
    expected = len(UNREADABLE) + 4
    wait_until(lambda: len(processor.lines("Skipped a command")) == expected, 10, "each is skipped")
    topics.publish(settings, settings.topic_create, [encode(request)], partition=0)
    wait_until(lambda: processor.has_logged("Cancelled", file=request.file_id), 10, "the file is not made")
    running.wait_for(running.publish_requests(0, 1))
