"""Records whose request names a handler, from the record to the result, on in-memory servers."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from filemill.adapters.memory.broker import MemoryBroker
from filemill.adapters.memory.object_store import MemoryUpload
from filemill.adapters.memory.publisher import MemoryPublisher
from filemill.domain.messages import header
from filemill.errors import Unavailable
from filemill.handlers.pool import ChildPool, PoolOptions
from filemill.handlers.registry import load_handlers
from filemill_workers.file_processor.executor import Executor, FinishedRecord
from filemill_workers.file_processor.handlers import Handlers
from filemill_workers.file_processor.reporter import Reporter
from filemill_workers.file_processor.result_writer import PART_BYTES
from tests.handlers.test_pool import SOURCES
from tests.unit.executor_harness import (
    CREATE,
    TOPICS,
    ControlledStore,
    ExecutorHarness,
    record,
    request,
    running_executor,
    wait_until,
)

KEY = "file-1-1767528000000.txt"
CHECKPOINT = "file-1-1767528000000-run1.checkpoint"


@contextlib.contextmanager
def processor(tmp_path: Path, store: ControlledStore | None = None, **options: Any) -> Iterator[ExecutorHarness]:
    """An executor with the misbehaving handlers. At its end no process is left."""
    broker = MemoryBroker(
        dict.fromkeys([CREATE, TOPICS.created, TOPICS.progress, TOPICS.dead_letters, TOPICS.worker_events], 1)
    )
    reporter = Reporter(MemoryPublisher(broker), TOPICS.worker_events, "worker-1", "consumer", 0)
    pool = ChildPool(PoolOptions(sources=SOURCES, size=1, folder=tmp_path))
    handlers = Handlers(load_handlers(SOURCES), pool)
    with (
        capture_logs(),
        running_executor(broker=broker, reporter=reporter, handlers=handlers, store=store, **options) as harness,
    ):
        yield harness
    assert pool.processes == []
    assert list(tmp_path.iterdir()) == []


def job(handler: str, parameters: object = None, file_id: int = 1, offset: int = 0, **fields: object) -> Any:
    return record(
        offset, value=request(file_id, handler=handler, parameters=parameters or {}, **fields), file_id=file_id
    )


def attempts(harness: ExecutorHarness) -> list[dict[str, Any]]:
    return [event for event in harness.events(TOPICS.worker_events) if event["kind"] == "attempted"]


def dead_letter(harness: ExecutorHarness) -> dict[str, str]:
    (letter,) = harness.broker.records(TOPICS.dead_letters)
    return {name: header(letter.headers, f"filemill-{name}") or "" for name in ("code", "reason", "trace", "log")}


def test_only_uploads_of_texts_may_pause_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause would make the processes of the pool wait between two jobs."""
    collected: list[None] = []
    monkeypatch.setattr(Executor, "collect_uploads", lambda _executor: collected.append(None))
    with processor(tmp_path) as harness:
        harness.start(job("echo", {"text": "good morning"}))
        harness.finished(1)
        assert collected == []
        harness.start(record(1, value=request(2), file_id=2))
        harness.finished(1)
    assert collected == [None]


@pytest.mark.parametrize("handler", ["echo", "echo-async"])
def test_a_handlers_result_is_stored_and_announced(tmp_path: Path, handler: str) -> None:
    with processor(tmp_path) as harness:
        harness.start(job(handler, {"text": "good morning"}))
        harness.finished(1)
        body = b"good morning 1" if handler == "echo" else b"good morning"
        assert harness.store.objects == {KEY: body}
        assert harness.store.metadata[KEY]["Content-Type"] == "text/plain"
        (event,) = harness.events()
        assert (event["s3Location"], event["sha256"]) == (KEY, hashlib.sha256(body).hexdigest())
        assert (event["size"], event["contentType"]) == (len(body), "text/plain")
        (attempt,) = attempts(harness)
        assert (attempt["fileId"], attempt["attempt"]) == (1, 1)
        assert attempt["cpuSeconds"] >= 0


def test_a_request_without_a_handler_is_the_text_of_the_reference_design(tmp_path: Path) -> None:
    with processor(tmp_path) as harness:
        harness.start(record(0))
        harness.finished(1)
        assert harness.store.objects[KEY].startswith(b"===================\nGENERATED FILE")
        assert attempts(harness) == []
        assert "contentType" not in harness.events()[0]


def test_a_handler_that_reports_no_progress_is_seen_to_run(tmp_path: Path) -> None:
    with processor(tmp_path, progress_interval_seconds=0.1) as harness:
        harness.start(job("silent", {"seconds": 1.0}))
        wait_until(lambda: harness.events(TOPICS.progress))
        harness.finished(1)
        (event,) = harness.events(TOPICS.progress)
        assert (event["fileId"], event["step"], event["attempt"]) == (1, 0, 1)
        assert attempts(harness)[0]["handlerVersion"] == "1"


def test_a_handler_that_is_not_deterministic_gets_a_key_of_its_own(tmp_path: Path) -> None:
    with processor(tmp_path) as harness:
        harness.start(job("report"), job("report", offset=1))
        harness.finished(2)
        keys = {event["s3Location"] for event in harness.events()}
        assert len(keys) == 2
        assert keys == set(harness.store.objects)
        assert all(key.startswith("file-1-1767528000000-run1-") for key in keys)


@pytest.mark.parametrize(
    ("handler", "code", "words"),
    [
        ("missing", "handler_unknown", "It has: text, allocate"),
        ("refuse", "rejected_by_handler", "there is no hello"),
        ("sleep", "deadline_exceeded", "within its 1 s (after 1 attempt)"),
        ("sleep-async", "deadline_exceeded", "within its 0.3 s"),
        ("fail", "attempts_exhausted", "ValueError: it failed"),
        ("allocate", "memory_exceeded", "more memory"),
    ],
)
def test_a_failure_is_dead_lettered_with_its_code(tmp_path: Path, handler: str, code: str, words: str) -> None:
    with processor(tmp_path) as harness:
        harness.start(job(handler))
        harness.finished(1)
        letter = dead_letter(harness)
        assert letter["code"] == code
        assert words in letter["reason"]
        assert harness.results() == {1: "failed"}
        assert harness.store.objects == {}
        if handler == "fail":
            assert letter["log"] == "about to fail\n"
            assert "misbehaving.py" in letter["trace"]
        if handler != "missing":
            (attempt,) = attempts(harness)
            assert attempt["error"]


def test_parameters_that_the_code_refuses_are_dead_lettered_at_once(tmp_path: Path) -> None:
    """The announced schema may be older than the code."""
    with processor(tmp_path) as harness:
        harness.start(job("echo", {"number": "one"}))
        harness.finished(1)
        assert dead_letter(harness)["code"] == "parameters_invalid"
        assert len(attempts(harness)) == 1


def test_a_later_attempt_that_a_handler_asks_for_is_not_counted(tmp_path: Path) -> None:
    with processor(tmp_path) as harness:
        harness.start(job("later"))
        wait_until(lambda: len(attempts(harness)) >= 3)
        assert {event["attempt"] for event in attempts(harness)} == {1}
        harness.executor.abandon({0: 1})
        assert harness.nothing_finished()


@pytest.mark.parametrize("how", ["cancel", "abandon"])
def test_a_cancelled_or_lost_record_ends_its_process_within_a_second(tmp_path: Path, how: str) -> None:
    with processor(tmp_path) as harness:
        harness.start(job("steps", {"steps": 1000, "seconds": 0.05}))
        wait_until(lambda: CHECKPOINT in harness.store.objects)
        started = time.monotonic()
        if how == "cancel":
            harness.executor.cancel([(1, 1)])
            assert harness.finished(1) == [FinishedRecord(0, 1, 0)]
        else:
            harness.executor.abandon({0: 1})
            assert harness.nothing_finished()
        assert time.monotonic() - started < 1
        count = len(harness.store.puts)
        harness.start(job("echo", file_id=2, offset=1), epoch=2)
        harness.finished(1)
        assert harness.store.puts[count:] == ["file-2-1767528000000.txt"]


def test_an_attempt_resumes_from_the_checkpoint_of_another_worker(tmp_path: Path) -> None:
    store = ControlledStore()
    with processor(tmp_path, store) as first:
        first.start(job("steps", {"steps": 1000, "seconds": 0.02}))
        wait_until(lambda: int(store.objects.get(CHECKPOINT, b"0")) >= 3)
        first.executor.abandon({0: 1})
    reached = store.objects[CHECKPOINT].decode()
    with processor(tmp_path, store) as second:
        second.start(job("steps", {"steps": int(reached) + 2}))
        second.finished(1)
        assert attempts(second)[0]["log"] == f"starts at step {reached}\n"
        assert CHECKPOINT not in store.objects, "it is deleted after the end"
        assert second.events(TOPICS.progress)[-1]["message"] == f"step {int(reached) + 2} of {int(reached) + 2}"
        assert second.events(TOPICS.progress)[-1]["fraction"] == 1.0


def test_a_large_result_is_uploaded_in_parts(tmp_path: Path) -> None:
    with processor(tmp_path) as harness:
        harness.start(job("large", {"mebibytes": 40}))
        harness.finished(1)
        body = bytes(range(256)) * 4096 * 40
        assert harness.store.objects[KEY] == body
        assert harness.store.uploads == []
        assert harness.events()[0]["sha256"] == hashlib.sha256(body).hexdigest()
        harness.start(job("large", {"mebibytes": 40}, offset=1))  # once more: it is compared, not stored
        harness.finished(1)
        harness.start(job("large", {"mebibytes": 41}, offset=2))
        harness.finished(1)
        assert dead_letter(harness)["code"] == "object_exists"
        assert harness.store.objects[KEY] == body


def test_a_failure_amid_a_large_result_leaves_no_upload(tmp_path: Path) -> None:
    class FailingPart(MemoryUpload):
        async def put_part(self, number: int, data: bytes) -> None:
            if number == 2 and store.failures < 2:
                store.failures += 1
                raise Unavailable("S3 is gone")
            await super().put_part(number, data)

    class Store(ControlledStore):
        failures = 0

        async def begin_upload(self, key: str, metadata: Mapping[str, str]) -> MemoryUpload:
            upload = FailingPart(self, key, metadata)
            self.uploads.append(upload)
            return upload

    store = Store()
    with processor(tmp_path, store) as harness:
        harness.start(job("large", {"mebibytes": 50}))
        harness.finished(1)
        assert store.failures == 2
        assert store.uploads == []
        assert len(store.objects[KEY]) == 50 * 2**20 > 3 * PART_BYTES
        assert harness.events()[0]["attempt"] == 1, "an outage is not the record's failure"
        assert asyncio.run(store.size(KEY)) == 50 * 2**20


def test_inputs_are_downloaded_and_a_missing_one_is_a_permanent_error(tmp_path: Path) -> None:
    with processor(tmp_path) as harness:
        harness.store.objects["given/a.csv"] = b"a,b\n"
        harness.start(job("inputs", inputs={"table": "given/a.csv"}))
        harness.finished(1)
        assert harness.store.objects[KEY] == b"table: a,b\n"
        harness.start(job("inputs", file_id=2, offset=1, inputs={"table": "given/b.csv"}))
        harness.finished(1)
        assert dead_letter(harness)["code"] == "input_missing"


def test_a_handler_keeps_to_its_number_of_attempts_at_a_time(tmp_path: Path) -> None:
    with processor(tmp_path) as harness:
        harness.start(*(job("alone-async", file_id=number, offset=number - 1) for number in range(1, 6)))
        harness.finished(5)
        assert set(harness.store.objects.values()) == {b"1 at a time"}
