"""Handlers in real processors: results, faults and crashes. Each test ends with `verify`, which makes results again."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, WorkerEventRow
from filemill.adapters.s3.uploads import S3Uploads
from filemill.domain.files import truncate_to_milliseconds
from filemill.domain.messages import RUN_HEADER, FileCreate, encode
from filemill.entrypoints import bootstrap
from filemill.verification.findings import FindingCode
from tests.integration import topics
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import Process, wait_until
from tests.servers import RunningServers

MODULE = "tests.handlers.misbehaving"
# The faults of handlers whose attempt fails, with the code of their dead letter.
FAULTS = {
    "sleep": "deadline_exceeded",
    "spin-in-c": "deadline_exceeded",
    "ignore-signals": "deadline_exceeded",
    "allocate": "memory_exceeded",
    "fill-file": "disk_exceeded",
    "exit": "handler_crashed",
    "segfault": "handler_crashed",
    "close-pipes": "handler_crashed",
    "nothing": "result_invalid",
    "gone": "result_invalid",
    "yield-and-raise": "attempts_exhausted",
    "fail": "attempts_exhausted",
    "refuse": "rejected_by_handler",
    "missing": "handler_unknown",
}


@pytest.fixture
def harness(servers: RunningServers, tmp_path: Path) -> Iterator[PipelineHarness]:
    """A harness whose processors have the misbehaving handlers."""
    options = {"handlers": MODULE, "processes": 2, "processing_seconds": 0.0, "drain_seconds": 1.0}
    with open_harness(servers, tmp_path, **options) as harness:
        yield harness


def request_job(harness: PipelineHarness, handler: str, parameters: dict[str, Any] | None = None) -> int:
    """Accept a request for a handler, and publish it."""
    now = truncate_to_milliseconds(datetime.now(UTC))
    title = f"For {handler}"
    row = {"title": title, "created_at": now, "handler": handler, "parameters": parameters or {}}
    with harness.engine.begin() as connection:
        file_id = connection.execute(sa.insert(File).returning(File.id), row).scalar_one()
    request = FileCreate(
        file_id,
        title,
        "",
        now,
        handler=handler,
        parameters=msgspec.Raw(json.dumps(parameters or {}).encode()),
    )
    topics.publish(
        harness.settings,
        harness.settings.topic_create,
        [encode(request)],
        partition=file_id % 3,
        headers=[(RUN_HEADER, b"1")],
    )
    return int(file_id)


def attempts(harness: PipelineHarness, file_id: int) -> list[dict[str, Any]]:
    """The attempts of a file that workers reported."""
    wanted = sa.select(WorkerEventRow.body).where(WorkerEventRow.file_id == file_id, WorkerEventRow.kind == "attempted")
    with harness.engine.connect() as connection:
        return list(connection.execute(wanted.order_by(WorkerEventRow.at)).scalars())


def handler_processes(processor: Process) -> list[psutil.Process]:
    return psutil.Process(processor.pid).children(recursive=True)


def dead_letter_codes(harness: PipelineHarness) -> dict[int, str]:
    letters = topics.read(harness.settings, harness.settings.topic_dead_letters)
    return {json.loads(letter.value or b"{}")["fileId"]: letter.headers["filemill-code"].decode() for letter in letters}


def test_every_fault_of_a_handler_is_a_dead_letter_and_its_neighbours_complete(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (processor,) = harness.start("processor")
    faulty = {request_job(harness, name): code for name, code in FAULTS.items()}
    sound = [
        *(request_job(harness, "echo", {"text": f"number {number}"}) for number in range(10)),
        request_job(harness, "echo-async"),
        request_job(harness, "escapes"),
        request_job(harness, "litter"),
        request_job(harness, "large", {"mebibytes": 40}),
        *harness.submit(5),
    ]
    harness.wait_for(sound, seconds=60)
    harness.wait_for(faulty, "failed", seconds=60)
    assert dead_letter_codes(harness) == faulty
    texts = [harness.download(file_id).decode() for file_id in sound[:2]]
    assert texts == [f"number 0 {sound[0]}", f"number 1 {sound[1]}"]
    (escapes,) = attempts(harness, sound[11])
    assert escapes["log"] == "\x1b[31mred\x1b[0m \\0 \\xff\n<script>alert(1)</script>\n"
    assert processor.alive
    report = harness.assert_clean()
    assert (report.completed, report.failed) == (len(sound), len(faulty))
    assert report.duplicate_results == 0


def test_another_worker_resumes_a_job_whose_processor_was_killed(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (first,) = harness.start("processor")
    file_id = request_job(harness, "steps", {"steps": 60, "seconds": 0.1})
    wait_until(lambda: (harness.file(file_id).step or 0) >= 2, 30, "the job is at a third")
    children = handler_processes(first)
    assert len(children) >= 2
    (second,) = harness.start("processor")
    first.kill()
    killed = time.monotonic()
    wait_until(lambda: not any(map(psutil.Process.is_running, children)), 5, "no process outlives its processor")
    assert time.monotonic() - killed < 5
    harness.wait_for([file_id], seconds=60)
    assert second.has_logged("Resumes from a checkpoint")
    (attempt,) = attempts(harness, file_id)
    assert int(attempt["log"].removeprefix("starts at step ")) >= 15
    report = harness.assert_clean()
    assert report.duplicate_results == 0


def test_a_processor_that_stops_kills_what_does_not_end_in_time(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (first,) = harness.start("processor")
    quick = request_job(harness, "steps", {"steps": 3, "seconds": 0.1})
    slow = request_job(harness, "steps", {"steps": 50, "seconds": 0.1})
    wait_until(lambda: harness.file(slow).step is not None, 30, "the slow job runs")
    children = handler_processes(first)
    assert first.terminate(20) == 0
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    harness.start("processor")
    harness.wait_for([quick, slow], seconds=60)
    assert len(harness.results()[quick]) == 1, "nothing that was finished is repeated"
    harness.assert_clean()


def test_verify_finds_a_handler_that_is_not_deterministic_and_lists_open_uploads(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor")
    honest, liar = request_job(harness, "report"), request_job(harness, "liar")
    harness.wait_for([honest, liar], seconds=60)
    client = bootstrap.s3_client(harness.settings)
    upload = client.create_multipart_upload(Bucket=harness.settings.s3_bucket, Key="file-1-1.bin")
    report = harness.verify()
    assert report.findings.keys() == {FindingCode.RENDER_DIFFERS}
    assert report.findings[FindingCode.RENDER_DIFFERS].examples == [str(liar)]
    (note,) = [note for note in report.notes if "multipart uploads are open: file-1-1.bin" in note]
    assert "its file has ended" in note
    assert "`filemill objects clean --yes` aborts" in note
    assert report.open_uploads == 1
    S3Uploads(harness.settings).abort("file-1-1.bin", upload["UploadId"])
    assert not [note for note in harness.verify().notes if "uploads" in note]


@pytest.mark.slow(reason="stores 5 GiB")
@pytest.mark.timeout(600)
def test_a_processor_streams_five_gibibytes_in_200_mb(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (processor,) = harness.start("processor")
    file_id = request_job(harness, "large", {"mebibytes": 5 * 1024})
    peak = 0

    def done() -> bool:
        nonlocal peak
        peak = max(peak, psutil.Process(processor.pid).memory_info().rss)
        return harness.file(file_id).status != "processing" and harness.file(file_id).status != "pending"

    wait_until(done, 500, "the file is stored", every=0.2)
    row = harness.file(file_id)
    assert (row.status, row.size) == ("completed", 5 * 2**30), row.error
    assert peak <= 200_000_000, peak
