"""Faults of handlers that need their full size, and servers that fail during uploads. Each ends with `verify`."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from filemill.adapters.s3.uploads import S3Uploads
from filemill.domain.files import NewFile
from filemill.lab.s3_proxy import FaultMode, S3Proxy
from filemill.queries.handlers import live_handlers
from filemill.services.submissions import Submissions
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import wait_until
from tests.integration.test_foreign import start_foreign_service
from tests.integration.test_handlers import MODULE, attempts, dead_letter_codes, request_job
from tests.principals import TEST
from tests.servers import RunningServers

LOG_BYTES = 64 * 1024
MEBIBYTE = 2**20


@pytest.fixture
def harness(servers: RunningServers, tmp_path: Path) -> Iterator[PipelineHarness]:
    """A harness whose processors have the misbehaving handlers, with their folders below the test's."""
    options = {"handlers": MODULE, "processes": 2, "processing_seconds": 0.0, "drain_seconds": 1.0}
    with open_harness(servers, tmp_path, **options) as harness:
        yield harness


def submit_jobs(harness: PipelineHarness, handler: str, parameters: str = "{}", count: int = 1) -> list[int]:
    """Submit requests as the page does: with the checks against the announced schema."""
    files = [NewFile(f"For {handler} {number}", "", handler, parameters) for number in range(count)]
    return Submissions(harness.engine).submit_many(files, principal=TEST)


def wait_until_announced(harness: PipelineHarness, handler: str, *versions: str) -> None:
    def announced() -> bool:
        with harness.engine.connect() as connection:
            found = {one.name: one for one in live_handlers(connection)}
        return handler in found and {one.version for one in found[handler].versions} == set(versions)

    wait_until(announced, 30, f"{handler} is announced in the versions {versions}")


@pytest.mark.slow(reason="prints 1 GB")
@pytest.mark.timeout(600)
def test_a_handler_that_prints_a_gigabyte_costs_no_memory_and_stops_no_other(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (processor,) = harness.start("processor")
    before = psutil.Process(processor.pid).memory_info().rss
    loud = request_job(harness, "print-much", {"number": 1_000_000})
    wait_until(lambda: harness.file(loud).status == "processing", 60, "it prints")
    neighbours = [request_job(harness, "echo", {"text": f"number {number}"}) for number in range(20)]
    peak = 0

    def done() -> bool:
        nonlocal peak
        peak = max(peak, psutil.Process(processor.pid).memory_info().rss)
        return harness.file(loud).status == "completed"

    wait_until(done, 500, "it has printed", every=0.1)
    harness.wait_for(neighbours, seconds=60)
    (attempt,) = attempts(harness, loud)
    assert attempt["log"].endswith("the end\n")
    assert LOG_BYTES - 4096 < len(attempt["log"]) <= LOG_BYTES + 1
    assert peak - before < 64 * MEBIBYTE, (before, peak)
    harness.assert_clean()


@pytest.mark.slow(reason="writes to the disk as fast as it can, up to 10 GiB")
@pytest.mark.timeout(600)
def test_a_handler_that_writes_ten_gibibytes_is_killed_before_the_disk_is_full(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (processor,) = harness.start("processor")
    file_id = request_job(harness, "fill-disk")
    folders: set[Path] = set()

    def done() -> bool:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(processor.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    folders.add(Path(child.cwd()))
        return harness.file(file_id).status == "failed"

    wait_until(done, 300, "it is killed", every=0.05)
    assert dead_letter_codes(harness) == {file_id: "disk_exceeded"}
    written = re.search(r"wrote (\d+) bytes", harness.file(file_id).error or "")
    assert written is not None, harness.file(file_id).error
    assert 128 * MEBIBYTE < int(written[1]) < 5 * 2**30
    own = [folder for folder in folders if folder.name.startswith("filemill-handler-")]
    assert own
    wait_until(lambda: not any(folder.exists() for folder in own), 30, "its folder is removed")
    harness.wait_for([request_job(harness, "echo")])
    harness.assert_clean()


def test_s3_that_is_gone_amid_an_upload_delays_the_file(servers: RunningServers, tmp_path: Path) -> None:
    options = {"handlers": MODULE, "processes": 1, "processing_seconds": 0.0, "server_timeout_seconds": 2.0}
    with open_harness(servers, tmp_path, **options) as harness, S3Proxy(harness.settings.s3_endpoint) as proxy:
        harness.run_in_threads("relay", "sync")
        harness.start("processor", s3_endpoint=proxy.url)
        uploads = S3Uploads(harness.settings)
        file_id = request_job(harness, "large-slowly", {"mebibytes": 64, "seconds": 0.1})
        wait_until(lambda: list(uploads.open()), 60, "the upload has begun")
        proxy.set_fault(FaultMode("answer", code=503))
        time.sleep(4)
        assert harness.file(file_id).status == "processing"
        proxy.set_fault(None)
        harness.wait_for([file_id], seconds=90)
        row = harness.file(file_id)
        assert (row.size, row.attempt) == (64 * MEBIBYTE, 1), "an outage is not counted as an attempt"
        report = harness.assert_clean()
        assert (report.completed, report.duplicate_results) == (1, 0)
        # The upload could not be aborted while S3 was gone: `verify` names it.
        left = [one.key for one in uploads.open()]
        named = [note for note in report.notes if "multipart uploads are open" in note]
        assert bool(left) == bool(named)
        assert all(key in named[0] for key in left)


def test_a_worker_with_another_version_than_the_announced_one(servers: RunningServers, tmp_path: Path) -> None:
    versions = [f"tests.handlers.version_{number}" for number in ("one", "two")]
    options = {"processes": 1, "processing_seconds": 0.0, "handlers": versions[1]}
    with open_harness(servers, tmp_path, **options) as harness:
        harness.run_in_threads("relay", "sync")
        harness.start("processor", handlers=versions[0])
        wait_until_announced(harness, "letter", "1")
        harness.start("processor", handlers=versions[1])
        wait_until_announced(harness, "letter", "1", "2")
        with harness.engine.connect() as connection:
            (announced,) = (one for one in live_handlers(connection) if one.name == "letter")
        assert (announced.version, announced.mixed) == ("2", True)
        ids = submit_jobs(harness, "letter", '{"text": "Dear Ada", "closing": "Yours"}', 12)

        def ended() -> bool:
            return set(harness.statuses(ids).values()) <= {"completed", "failed"}

        wait_until(ended, 60, "all have ended")
        made = {harness.file(file_id).worker_id: harness.file(file_id).status for file_id in ids}
        assert made == {"processor-1": "failed", "processor-2": "completed"}
        refused = [file_id for file_id in ids if harness.file(file_id).status == "failed"]
        assert dead_letter_codes(harness) == dict.fromkeys(refused, "parameters_invalid")
        assert len(attempts(harness, refused[0])) == 1, "another attempt here would end the same way"
        report = harness.assert_clean()
        assert (report.completed, report.failed) == (len(ids) - len(refused), len(refused))


def test_verify_does_not_compare_the_bytes_of_another_version(servers: RunningServers, tmp_path: Path) -> None:
    versions = [f"tests.handlers.version_{number}" for number in ("one", "two")]
    with open_harness(servers, tmp_path, processes=1, processing_seconds=0.0, handlers=versions[1]) as harness:
        harness.run_in_threads("relay", "sync")
        first = harness.processes.start("processor", "same", handlers=versions[0])
        wait_until_announced(harness, "letter", "1")
        old = submit_jobs(harness, "letter", '{"text": "Dear Ada"}', 2)
        harness.wait_for(old, seconds=60)
        assert first.terminate(20) == 0
        harness.processes.start("processor", "same", handlers=versions[1])
        wait_until_announced(harness, "letter", "2")
        new = submit_jobs(harness, "letter", '{"text": "Dear Ada"}', 2)
        harness.wait_for(new, seconds=60)
        assert {harness.download(file_id) for file_id in old} == {b"Dear Ada\n"}
        assert {harness.download(file_id) for file_id in new} == {b"Dear Ada\n\nRegards\n"}
        report = harness.assert_clean()
        assert any('the version 1 of "letter" made' in note for note in report.notes), report.notes


def test_a_foreign_worker_never_gets_a_request_of_another_handler(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    foreign = start_foreign_service(harness)
    harness.processes.start("processor", queues="jobs")
    wait_until_announced(harness, "echo", "1")
    jobs = [*submit_jobs(harness, "echo", '{"text": "hello"}', 20), *submit_jobs(harness, "escapes")]
    texts = harness.submit(20)
    harness.wait_for([*jobs, *texts], seconds=60)
    assert {harness.file(file_id).worker_id for file_id in texts} == {None}
    assert {harness.file(file_id).worker_id for file_id in jobs} == {"processor-1"}
    assert foreign.alive
    assert harness.assert_clean().foreign == len(texts)
