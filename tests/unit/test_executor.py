"""The executor: effects in order, failures of single records, abandonment and cancellation."""

import json
import threading
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from filemill.domain.content import render, sha256_hex
from filemill.domain.messages import FileCreated, decode, header
from filemill.domain.worker_events import EventKind
from filemill.errors import DeadLetterCode, PermanentError, Unavailable
from filemill_workers.file_processor import executor as executor_module
from filemill_workers.file_processor import record_task
from filemill_workers.file_processor.executor import BUSY_RECORDS, DELIVERY_POLL_SECONDS, Executor, FinishedRecord
from tests.unit.clocks import ManualClock
from tests.unit.executor_harness import (
    CREATE,
    DEADLINE_SECONDS,
    TOPICS,
    TRACE,
    block_loop,
    record,
    request,
    running_executor,
    wait_until,
)

REQUESTED_AT = datetime(2026, 1, 4, 12, 0, tzinfo=UTC)
KEY_1 = "file-1-1767528000000.txt"


# --- a valid record


def test_a_record_becomes_an_object_and_an_event() -> None:
    with running_executor() as harness:
        harness.start(record(0, partition=2))
        assert harness.finished(1) == [FinishedRecord(2, 1, 0)]
        body = render("File 1", "d", REQUESTED_AT)
        assert harness.store.objects == {KEY_1: body}
        assert harness.store.metadata[KEY_1]["sha256"] == sha256_hex(body)
        assert datetime.fromisoformat(harness.store.metadata[KEY_1]["processed-at"]).utcoffset() is not None
        (event,) = harness.events()
        expected = {
            "fileId": 1,
            "s3Location": KEY_1,
            "status": "completed",
            "run": 1,
            "sha256": sha256_hex(body),
            "size": len(body),
            "workerId": "worker-1",
            "partition": 2,
            "offset": 0,
            "attempt": 1,
        }
        assert expected.items() <= event.items()
        assert event["startedAt"] <= event["timestamp"]
        assert harness.events(TOPICS.dead_letters) == []


def test_every_nth_file_is_a_long_job() -> None:
    with running_executor(long_job_every=3, long_job_seconds=0.6) as harness:
        harness.start(*(record(offset) for offset in range(6)))
        assert [done.offset for done in harness.finished(4)] == [0, 1, 3, 4]
        assert harness.nothing_finished()
        assert sorted(done.offset for done in harness.finished(2)) == [2, 5]


def test_the_result_carries_the_trace_context() -> None:
    with running_executor() as harness:
        harness.start(record(0))
        harness.finished(1)
        (event,) = harness.broker.records(TOPICS.created)
        assert header(event.headers, "traceparent") == TRACE


@pytest.mark.parametrize("run", [None, b"", b"none", b"0", b"1" * 25, b"9" * 5000, b"4294967296", b"\xff"])
def test_a_request_without_a_usable_run_has_a_result_without_a_run(run: bytes | None) -> None:
    with running_executor() as harness:
        harness.start(record(0, run=run), record(1))
        assert len(harness.finished(2)) == 2
        events = [decode(each.value, FileCreated) for each in harness.broker.records(TOPICS.created)]
        assert {(event.file_id, event.run) for event in events} == {(1, None), (2, 1)}


def test_a_redelivered_record_finds_its_object_and_writes_nothing() -> None:
    with running_executor() as harness:
        harness.start(record(0))
        harness.finished(1)
        harness.start(record(0), epoch=2)
        harness.finished(1)
        assert harness.store.attempts == [KEY_1, KEY_1]
        assert harness.store.puts == [KEY_1]
        assert [event["status"] for event in harness.events()] == ["completed", "completed"]


def test_a_record_whose_key_has_another_object_is_dead_lettered_and_the_object_stays() -> None:
    with running_executor() as harness:
        harness.start(record(0))
        harness.finished(1)
        before = harness.store.objects[KEY_1]
        harness.start(record(1, value=request(1, title="Forged")), record(2))
        harness.finished(2)
        assert harness.store.objects[KEY_1] == before
        assert harness.store.attempts.count(KEY_1) == 2, "no further attempt"
        (letter,) = harness.broker.records(TOPICS.dead_letters)
        assert dict(letter.headers)["filemill-code"] == b"object_exists"
        assert f"Another object has the key {KEY_1}" in str(dict(letter.headers)["filemill-reason"])
        assert [(event["fileId"], event["status"]) for event in harness.events() if event["fileId"] == 1] == [
            (1, "completed"),
            (1, "failed"),
        ]


def test_an_existing_object_is_compared_by_its_bytes_not_its_metadata() -> None:
    with running_executor() as harness:
        harness.store.objects[KEY_1] = b"forged"
        harness.store.metadata[KEY_1] = {"sha256": sha256_hex(render("File 1", "d", REQUESTED_AT))}
        harness.start(record(0))
        harness.finished(1)
        assert harness.results() == {1: "failed"}
        assert harness.store.objects[KEY_1] == b"forged"


def test_a_record_whose_put_response_was_lost_is_completed() -> None:
    with running_executor() as harness:
        harness.store.losing_responses = True
        harness.start(record(0))
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]
        assert harness.store.attempts == [KEY_1, KEY_1]
        assert harness.results() == {1: "completed"}
        assert harness.events(TOPICS.dead_letters) == []


def test_an_object_that_is_deleted_before_it_is_compared_is_written_by_the_next_attempt() -> None:
    with running_executor() as harness:
        harness.store.objects[KEY_1] = b"forged"
        harness.store.deleting = True
        harness.start(record(0))
        harness.finished(1)
        assert harness.results() == {1: "completed"}
        assert harness.store.puts == [KEY_1]


def test_the_result_is_published_after_the_object_and_the_record_finishes_after_the_acknowledgement() -> None:
    with running_executor() as harness:
        harness.store.blocked.add(KEY_1)
        harness.broker.outage = "Kafka is unreachable"
        harness.start(record(0))
        wait_until(lambda: harness.store.attempts == [KEY_1])
        assert harness.events() == []
        harness.store.blocked.clear()
        wait_until(lambda: harness.store.puts == [KEY_1])
        harness.wait_for_pending_deliveries(1)
        assert harness.nothing_finished(), "the broker has not acknowledged it"
        harness.broker.outage = None
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]


def test_a_refused_acknowledgement_does_not_finish_a_record() -> None:
    with running_executor() as harness:
        harness.broker.reject_reason = "Broker: Not enough in-sync replicas"
        harness.start(record(0))
        wait_until(lambda: harness.broker.rejected > 3)
        assert harness.nothing_finished()
        assert harness.events() == []
        assert len(harness.store.puts) == 1, "only publishing is retried"
        harness.broker.reject_reason = None
        harness.finished(1)
        assert harness.results() == {1: "completed"}
        assert harness.events()[0]["attempt"] == 1, "an outage is no attempt"


def test_a_thousand_records_are_processed_concurrently() -> None:
    with running_executor(processing_seconds=0.3, processing_steps=3) as harness:
        began = time.monotonic()
        harness.start(*(record(offset) for offset in range(1000)))
        assert harness.executor.in_progress({0: 1}) <= 1000
        assert len(harness.finished(1000)) == 1000
        assert 0.3 <= time.monotonic() - began < 20, "sequentially they would take 300 s"
        assert harness.events(TOPICS.progress) == [], "work within a second publishes no progress"


def test_progress_is_published_at_most_once_per_interval_with_its_step() -> None:
    with running_executor(progress_interval_seconds=0.05, processing_seconds=0.3, processing_steps=30) as harness:
        began = time.monotonic()
        harness.start(record(0, partition=1))
        harness.finished(1)
        told = harness.events(TOPICS.progress)
        assert 2 <= len(told) <= (time.monotonic() - began) / 0.05 + 1
        assert len(told) < 30
        steps = sorted(event["step"] for event in told)
        assert steps[0] == 0
        assert len(set(steps)) == len(steps)
        assert all(event["steps"] == 30 and event["fileId"] == 1 and event["partition"] == 1 for event in told)


def test_rejected_progress_does_not_delay_the_record() -> None:
    with running_executor(progress_interval_seconds=0.0, processing_seconds=0.01, processing_steps=2) as harness:
        harness.broker.reject_reason = "refused"
        harness.start(record(0))
        wait_until(lambda: harness.store.puts)
        harness.broker.reject_reason = None
        harness.finished(1)


# --- failures


@pytest.mark.parametrize(
    "value",
    [
        b"not json",
        b"",
        b"\xff",
        b"[1]",
        request(1, title=""),
        request(1, title="a" * 256),
        request(1, description="a\x00"),
        request(1, timestamp="0001-01-01T00:00:00+14:00"),
        b'{"fileId":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=range(9),
)
def test_an_invalid_record_is_dead_lettered_at_once_and_unchanged(value: bytes) -> None:
    with running_executor() as harness:
        harness.start(record(7, partition=1, value=value), record(8, partition=1))
        assert {each.offset for each in harness.finished(2)} == {7, 8}
        (letter,) = harness.broker.records(TOPICS.dead_letters)
        assert letter.value == value
        named = {name: (raw or b"").decode() for name, raw in letter.headers}
        assert named["filemill-reason"]
        assert (named["filemill-topic"], named["filemill-partition"], named["filemill-offset"]) == (CREATE, "1", "7")
        assert named["filemill-attempts"] == "1"
        assert named["filemill-worker"] == "worker-1"
        assert named["traceparent"] == TRACE, "the original's headers are kept"
        assert harness.store.puts == ["file-9-1767528000000.txt"]


def test_an_invalid_record_with_a_file_id_fails_its_file_with_the_reason() -> None:
    with running_executor() as harness:
        harness.start(record(0, value=request(42, title="a\nb"), run=b"3"))
        harness.finished(1)
        (event,) = harness.events()
        assert (event["fileId"], event["status"], event["run"]) == (42, "failed", 3)
        assert "title" in event["error"]
        assert "s3Location" not in event


def test_an_invalid_record_without_a_file_id_has_no_result() -> None:
    with running_executor() as harness:
        harness.start(record(0, value=b"not json"))
        harness.finished(1)
        assert harness.events() == []


def test_a_record_with_unreadable_headers_is_dead_lettered_with_a_code() -> None:
    with running_executor() as harness:
        harness.start(
            msgspec.structs.replace(record(0), headers=[], headers_error="headers unreadable: why"), record(1)
        )
        harness.finished(2)
        (letter,) = harness.broker.records(TOPICS.dead_letters)
        assert letter.value == record(0).value
        assert dict(letter.headers)["filemill-code"] == b"headers_unreadable"
        assert dict(letter.headers)["filemill-reason"] == b"headers unreadable: why"


def test_a_dead_letter_keeps_all_headers_in_order_including_null_values() -> None:
    with running_executor() as harness:
        headers = [("a", None), ("b", b""), ("a", b"2"), ("b", None)]
        harness.start(msgspec.structs.replace(record(0, value=b"{}"), headers=headers))
        harness.finished(1)
        (letter,) = harness.broker.records(TOPICS.dead_letters)
        assert letter.headers[:4] == headers


def test_a_failing_record_is_dead_lettered_after_its_attempts() -> None:
    with running_executor() as harness:
        harness.store.failing[KEY_1] = ValueError("boom")
        harness.start(record(0))
        harness.finished(1)
        assert harness.store.attempts == [KEY_1] * 3
        (letter,) = harness.broker.records(TOPICS.dead_letters)
        named = {name: (raw or b"").decode() for name, raw in letter.headers}
        assert named["filemill-attempts"] == "3"
        assert "boom" in named["filemill-trace"]
        (event,) = harness.events()
        assert (event["status"], event["attempt"]) == ("failed", 3)
        assert "ValueError: boom" in event["error"]


def test_a_record_that_succeeds_on_a_retry_reports_its_attempt() -> None:
    with running_executor() as harness:
        harness.store.failing[KEY_1] = ValueError("boom")
        harness.start(record(0))
        wait_until(lambda: harness.store.attempts)
        harness.store.failing.clear()
        harness.finished(1)
        (event,) = harness.events()
        assert event["status"] == "completed"
        assert event["attempt"] == len(harness.store.attempts)
        assert harness.events(TOPICS.dead_letters) == []


def test_an_outage_of_s3_costs_no_attempt_however_long_it_lasts() -> None:
    with running_executor() as harness:
        harness.store.failing[KEY_1] = Unavailable("S3 is unreachable")
        harness.start(record(0))
        wait_until(lambda: len(harness.store.attempts) > 20)
        assert harness.nothing_finished()
        assert harness.events(TOPICS.dead_letters) == []
        harness.store.failing.clear()
        harness.finished(1)
        (event,) = harness.events()
        assert (event["status"], event["attempt"]) == ("completed", 1)


def test_an_outage_at_the_end_does_not_repeat_the_work() -> None:
    with running_executor(processing_seconds=0.5, processing_steps=1) as harness:
        harness.store.failing[KEY_1] = Unavailable("S3 is unreachable")
        harness.start(record(0))
        wait_until(lambda: len(harness.store.attempts) > 100, "each try works for half a second again")
        harness.store.failing.clear()
        harness.finished(1)


def test_a_failing_record_does_not_delay_others() -> None:
    with running_executor() as harness:
        harness.store.blocked.add(KEY_1)
        harness.store.failing["file-2-1767528000000.txt"] = Unavailable("for this one")
        harness.start(*(record(offset) for offset in range(50)))
        assert sorted(each.offset for each in harness.finished(48)) == list(range(2, 50))
        harness.store.blocked.clear()
        harness.store.failing.clear()
        assert sorted(each.offset for each in harness.finished(2)) == [0, 1]


def test_a_dead_lettered_record_finishes_after_the_broker_acknowledges() -> None:
    with running_executor() as harness:
        harness.broker.reject_reason = "refused"
        harness.start(record(0, value=request(1, title="")))
        wait_until(lambda: harness.executor.in_progress({0: 1}) == 1)
        assert harness.nothing_finished()
        harness.broker.reject_reason = None
        harness.finished(1)
        assert len(harness.broker.records(TOPICS.dead_letters)) == 1
        assert harness.results() == {1: "failed"}


def test_a_dead_letter_that_is_too_large_is_kept_without_its_value() -> None:
    huge = request(1, description="a" * (2 * 1024 * 1024))
    with running_executor() as harness:
        harness.start(record(0, value=huge), record(1))
        harness.finished(2)
        (letter,) = harness.broker.records(TOPICS.dead_letters)
        assert letter.value is None
        assert header(letter.headers, "filemill-value-omitted-bytes") == str(len(huge))
        assert harness.results() == {1: "failed", 2: "completed"}


def test_a_long_trace_is_cut() -> None:
    with running_executor() as harness:
        harness.store.failing[KEY_1] = ValueError("x" * 100_000)
        harness.start(record(0))
        harness.finished(1)
        (letter,) = harness.broker.records(TOPICS.dead_letters)
        trace = header(letter.headers, "filemill-trace")
        assert trace is not None
        assert len(trace) <= record_task.TRACE_MAX_CHARACTERS


def test_a_permanent_error_is_not_retried() -> None:
    """A record that is too large for Kafka is not an outage."""
    with running_executor() as harness:
        harness.store.failing[KEY_1] = PermanentError("too large", DeadLetterCode.RECORD_TOO_LARGE)
        harness.start(record(0))
        harness.finished(1)
        assert harness.store.attempts == [KEY_1]
        assert harness.results() == {1: "failed"}


# --- in order, or not


def test_records_finish_in_any_order() -> None:
    with running_executor() as harness:
        harness.store.blocked.add(KEY_1)
        harness.start(record(0), record(1))
        assert harness.finished(1)[0].offset == 1
        harness.store.blocked.clear()
        assert harness.finished(1)[0].offset == 0


def test_one_at_a_time_keeps_the_order_of_a_partition_and_not_between_partitions() -> None:
    with running_executor(one_at_a_time=True) as harness:
        harness.store.blocked.add(KEY_1)
        harness.start(record(0), record(1), record(2), record(10, partition=1), record(11, partition=1))
        assert [(each.partition, each.offset) for each in harness.finished(2)] == [(1, 10), (1, 11)]
        assert harness.store.attempts.count("file-2-1767528000000.txt") == 0, "not started"
        harness.start(record(3))
        harness.store.blocked.clear()
        assert [each.offset for each in harness.finished(4)] == [0, 1, 2, 3]


def test_one_at_a_time_continues_after_an_invalid_record() -> None:
    with running_executor(one_at_a_time=True) as harness:
        harness.start(record(0, value=b"not json"), record(1))
        assert [each.offset for each in harness.finished(2)] == [0, 1]


def test_concurrent_uploads_are_limited() -> None:
    with running_executor(upload_slots=2) as harness:
        keys = [f"file-{number}-1767528000000.txt" for number in range(1, 6)]
        harness.store.blocked.update(keys)
        harness.start(*(record(offset) for offset in range(5)))
        wait_until(lambda: len(harness.store.attempts) == 2)
        harness.store.blocked.clear()
        harness.finished(5)
        assert len(harness.store.attempts) == 5


# --- giving up partitions


def test_an_abandoned_record_has_no_further_effect() -> None:
    with running_executor(processing_seconds=0.2, processing_steps=1) as harness:
        harness.start(record(0), record(5, partition=1))
        wait_until(lambda: harness.executor.in_progress({0: 1, 1: 1}) == 2)
        harness.executor.abandon({0: 1})
        wait_until(lambda: harness.executor.in_progress({0: 1}) == 0)
        assert harness.finished(1) == [FinishedRecord(1, 1, 5)]
        assert harness.results() == {6: "completed"}
        assert list(harness.store.objects) == ["file-6-1767528000000.txt"]


def test_abandoning_an_epoch_does_not_affect_the_next_epoch() -> None:
    with running_executor(processing_seconds=0.05, processing_steps=1) as harness:
        harness.start(record(0), epoch=1)
        harness.start(record(0), epoch=2)
        harness.executor.abandon({0: 1})
        assert harness.finished(1) == [FinishedRecord(0, 2, 0)]
        assert harness.nothing_finished()


def test_a_drain_abandons_only_records_that_would_be_idle_for_too_long() -> None:
    with running_executor(processing_seconds=30, processing_steps=1) as slow:
        slow.start(record(0))
        wait_until(lambda: slow.executor.in_progress({0: 1}) == 1)
        slow.wait_until_idle()
        slow.executor.abandon({0: 1}, idle_longer_than=60)
        assert slow.executor.in_progress({0: 1}) == 1
        slow.executor.abandon({0: 1}, idle_longer_than=5)
        wait_until(lambda: slow.executor.in_progress({0: 1}) == 0)
    with running_executor() as busy:
        busy.store.blocked.add(KEY_1)
        busy.start(record(0))
        wait_until(lambda: busy.store.attempts)
        busy.executor.abandon({0: 1}, idle_longer_than=0)
        busy.store.blocked.clear()
        assert busy.finished(1) == [FinishedRecord(0, 1, 0)], "a drain waits for an upload"


def test_a_drain_abandons_records_that_wait_for_the_one_before_them() -> None:
    with running_executor(one_at_a_time=True) as harness:
        harness.store.blocked.add(KEY_1)
        harness.start(record(0), record(1))
        wait_until(lambda: harness.store.attempts)
        harness.executor.abandon({0: 1}, idle_longer_than=5)
        wait_until(lambda: harness.executor.in_progress({0: 1}) == 1)
        harness.store.blocked.clear()
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]
        assert list(harness.store.objects) == [KEY_1]


def test_a_late_acknowledgement_does_not_finish_an_abandoned_record() -> None:
    with running_executor() as harness:
        harness.broker.outage = "Kafka is unreachable"
        harness.start(record(0))
        harness.wait_for_pending_deliveries(1)
        harness.executor.abandon({0: 1})
        wait_until(lambda: harness.executor.in_progress({0: 1}) == 0)
        harness.broker.outage = None
        harness.wait_for_pending_deliveries(0)
        assert harness.nothing_finished()


# --- batches of results


def test_results_wait_for_the_delivery_reports_of_the_batch_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "HOLD_SECONDS", 1e9)
    with running_executor(batching_seconds=0.001) as harness:
        harness.broker.outage = "Kafka is unreachable"
        harness.start(record(0))
        wait_until(lambda: harness.publisher.published == 1)
        harness.start(record(1), record(2))
        harness.wait_for_pending_deliveries(3)
        time.sleep(10 * DELIVERY_POLL_SECONDS)
        assert harness.publisher.published == 1
        harness.broker.outage = None
        harness.finished(3)
        assert set(harness.results()) == {1, 2, 3}


def test_results_do_not_wait_long_for_a_partition_without_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "HOLD_SECONDS", 0.01)
    with running_executor(batching_seconds=0.001) as harness:
        harness.broker.outage = "Kafka is unreachable"
        harness.start(record(0))
        wait_until(lambda: harness.publisher.published == 1)
        harness.start(record(1), record(2))
        wait_until(lambda: harness.publisher.published == 3)
        assert harness.nothing_finished()


def test_a_waiting_result_of_an_abandoned_record_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "HOLD_SECONDS", 1e9)
    with running_executor(batching_seconds=0.001) as harness:
        harness.broker.outage = "Kafka is unreachable"
        harness.start(record(0))
        wait_until(lambda: harness.publisher.published == 1)
        harness.start(record(1, partition=1))
        harness.wait_for_pending_deliveries(2)
        harness.executor.abandon({1: 1})
        harness.broker.outage = None
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]
        harness.wait_for_pending_deliveries(0)
        assert harness.results() == {1: "completed"}


def test_a_result_that_cannot_be_published_does_not_affect_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_executor(batching_seconds=0.001) as harness:
        gate = block_loop(harness)
        rejected = [PermanentError("too large", DeadLetterCode.RECORD_TOO_LARGE)]
        publish = harness.publisher.publish

        def reject_first(*arguments: Any, **options: Any) -> None:
            if rejected:
                raise rejected.pop()
            publish(*arguments, **options)

        monkeypatch.setattr(harness.publisher, "publish", reject_first)
        harness.start(record(0), record(1), record(2))
        gate.set()
        harness.finished(3)
        assert sorted(harness.results().values()) == ["completed", "completed", "failed"]


def test_a_record_that_may_be_lost_waits_with_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "HOLD_SECONDS", 1e9)
    with running_executor(batching_seconds=0.001) as harness:
        neighbour = harness.new_executor(host=harness.executor)

        async def report() -> None:
            neighbour.publish_nowait(TOPICS.worker_events, b"{}", "worker-1")

        harness.broker.outage = "Kafka is unreachable"
        harness.start(record(0))
        wait_until(lambda: harness.publisher.published == 1)
        neighbour.run_probe(report)
        time.sleep(10 * DELIVERY_POLL_SECONDS)
        assert harness.publisher.published == 1
        harness.broker.outage = None
        wait_until(lambda: harness.publisher.published == 2)
        assert len(harness.broker.records(TOPICS.worker_events)) == 1
        neighbour.close()


@pytest.mark.parametrize("batching_seconds", [0.0, 0.001])
def test_a_record_that_may_be_lost_fails_without_an_error(
    monkeypatch: pytest.MonkeyPatch, batching_seconds: float
) -> None:
    with running_executor(batching_seconds=batching_seconds) as harness:
        refused, returned = threading.Event(), threading.Event()
        publish = harness.publisher.publish

        def refuse_events(topic: str, *arguments: Any, **options: Any) -> None:
            if topic == TOPICS.worker_events:
                refused.set()
                raise Unavailable("the producer's queue is full")
            publish(topic, *arguments, **options)

        monkeypatch.setattr(harness.publisher, "publish", refuse_events)

        async def report() -> None:
            harness.executor.publish_nowait(TOPICS.worker_events, b"{}")
            returned.set()

        harness.executor.run_probe(report)
        assert returned.wait(DEADLINE_SECONDS)
        assert refused.wait(DEADLINE_SECONDS)
        harness.start(record(0))
        harness.finished(1)
        assert harness.results() == {1: "completed"}


def test_executors_of_a_thread_share_their_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "HOLD_SECONDS", 1e9)
    with running_executor(batching_seconds=0.001) as harness:
        neighbour = harness.new_executor(host=harness.executor)
        harness.broker.outage = "Kafka is unreachable"
        harness.start(record(0))
        wait_until(lambda: harness.publisher.published == 1)
        neighbour.start([record(1)], {0: 1})
        harness.wait_for_pending_deliveries(2)
        time.sleep(10 * DELIVERY_POLL_SECONDS)
        assert harness.publisher.published == 1
        harness.broker.outage = None
        assert neighbour.finished.get(timeout=DEADLINE_SECONDS) == FinishedRecord(0, 1, 1)
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]
        neighbour.close()


# --- pauses of the loop


@pytest.mark.parametrize(("records", "pauses"), [(BUSY_RECORDS - 1, False), (BUSY_RECORDS + 50, True)])
def test_the_loop_pauses_after_uploads_only_if_many_records_are_in_progress(
    monkeypatch: pytest.MonkeyPatch, records: int, *, pauses: bool
) -> None:
    paused: list[Executor] = []
    pause = Executor._pause

    def count_pause(executor: Executor) -> None:
        paused.append(executor)
        pause(executor)

    monkeypatch.setattr(executor_module, "BUSY_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(Executor, "_pause", count_pause)
    with running_executor() as harness:
        harness.start(*(record(offset) for offset in range(records)))
        harness.finished(records)
    assert bool(paused) is pauses
    assert len(paused) < records / 2, "each upload has its own pause"


def test_the_pauses_count_the_records_of_all_executors_of_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    paused = threading.Event()
    monkeypatch.setattr(Executor, "_pause", lambda _executor: paused.set())
    with running_executor() as harness:
        neighbour = harness.new_executor(host=harness.executor)
        gate = block_loop(harness)
        harness.start(*(record(offset) for offset in range(BUSY_RECORDS - 1)))
        neighbour.start([record(BUSY_RECORDS)], {0: 1})
        gate.set()
        harness.finished(BUSY_RECORDS - 1)
        assert paused.is_set()
        neighbour.close()


def test_closing_abandons_all_records_and_ends_the_thread() -> None:
    with running_executor(processing_seconds=60) as harness:
        harness.start(*(record(offset) for offset in range(20)))
        wait_until(lambda: harness.executor.in_progress({0: 1}) == 20)
    assert not any(thread.name == "executor" and thread.is_alive() for thread in threading.enumerate())
    assert harness.nothing_finished()


# --- a worker that was stopped


def test_without_a_confirmed_membership_no_effect_begins() -> None:
    clock = ManualClock()
    with running_executor(membership_ttl_seconds=3.0, clock=clock) as harness:
        clock.advance(3.1)  # the process was paused
        harness.start(record(0), record(1, value=b"not json"))
        wait_until(lambda: harness.executor.in_progress({0: 1}) == 2)
        wait_for_checks(clock)
        assert harness.store.attempts == []
        assert harness.broker.records(TOPICS.dead_letters) == []
        harness.executor.confirm_membership()
        assert len(harness.finished(2)) == 2


def test_an_upload_that_waited_for_a_slot_checks_the_membership_again() -> None:
    clock = ManualClock()
    with running_executor(upload_slots=1, membership_ttl_seconds=3.0, clock=clock) as harness:
        harness.store.blocked.add(KEY_1)
        harness.start(record(0), record(1))
        wait_until(lambda: harness.store.attempts == [KEY_1])
        clock.advance(3.1)  # the process was paused during an upload
        harness.store.failing[KEY_1] = PermanentError("too large", DeadLetterCode.RECORD_TOO_LARGE)
        harness.store.blocked.clear()
        wait_for_checks(clock)
        assert harness.store.attempts == [KEY_1], "the second upload waits for the membership"
        harness.executor.confirm_membership()
        assert len(harness.finished(2)) == 2


def wait_for_checks(clock: ManualClock, checks: int = 10) -> None:
    """Wait until records have checked the membership several times."""
    before = clock.reads
    wait_until(lambda: clock.reads >= before + checks)


# --- cancelled files


def test_the_record_of_a_cancelled_file_is_skipped() -> None:
    with running_executor() as harness:
        harness.cancelled.add((1, 1))
        harness.start(record(0), record(1))
        assert {each.offset for each in harness.finished(2)} == {0, 1}
        assert list(harness.store.objects) == ["file-2-1767528000000.txt"]
        assert harness.results() == {2: "completed"}


def test_cancelling_an_idle_record_finishes_it_without_a_file() -> None:
    with running_executor(processing_seconds=60) as harness:
        harness.start(record(0))
        harness.wait_until_idle()
        harness.executor.cancel([(1, 1)])
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]
        assert harness.store.objects == {}
        assert harness.events() == []


def test_cancelling_one_run_does_not_affect_another_run() -> None:
    with running_executor(processing_seconds=0.05) as harness:
        harness.start(record(0, run=b"2"))
        harness.executor.cancel([(1, 1)])
        harness.finished(1)
        assert harness.results() == {1: "completed"}


def test_a_record_that_is_cancelled_while_it_starts_finishes() -> None:
    with running_executor() as harness:
        gate = block_loop(harness)
        harness.start(record(0))
        harness.executor.cancel([(1, 1)])
        gate.set()
        wait_until(lambda: not harness.executor.finished.empty(), "its offset is stuck", seconds=1)


def test_a_record_that_is_cancelled_while_it_waits_for_the_one_before_it_finishes() -> None:
    with running_executor(one_at_a_time=True) as harness:
        harness.store.blocked.add(KEY_1)
        harness.start(record(0), record(1), record(2))
        wait_until(lambda: harness.store.attempts)
        harness.executor.cancel([(2, 1)])
        harness.store.blocked.clear()
        assert {each.offset for each in harness.finished(3, seconds=1)} == {0, 1, 2}


# --- outages


def test_an_outage_opens_the_breaker_once_and_all_records_complete_after_it() -> None:
    with running_executor(breakers=True) as harness:
        harness.store.outage = "S3 is unreachable"
        harness.start(*(record(offset) for offset in range(200)))
        wait_until(lambda: harness.breakers["S3"].reason)
        tries = len(harness.store.attempts)
        assert tries <= 200, "each record made at most one attempt"
        harness.store.outage = None
        assert len(harness.finished(200)) == 200
        assert set(harness.results().values()) == {"completed"}
        assert harness.breaker_events == [EventKind.BREAKER_OPENED, EventKind.BREAKER_CLOSED]
        assert harness.breakers["S3"].reason is None


def test_a_result_has_the_fields_of_the_reference_design() -> None:
    with running_executor() as harness:
        harness.start(record(0))
        harness.finished(1)
        (event,) = harness.broker.records(TOPICS.created)
        assert set(json.loads(event.value or b"")) >= {"fileId", "s3Location", "status", "timestamp"}


# --- how long each stage took


def test_a_result_contains_the_duration_of_each_stage() -> None:
    clock = ManualClock()
    with running_executor(clock=clock) as harness:
        harness.store.blocked.add(KEY_1)
        harness.start(record(0))
        wait_until(lambda: harness.store.attempts == [KEY_1])
        clock.advance(0.05)
        harness.store.blocked.clear()
        harness.finished(1)
        (event,) = harness.events()
        assert event["stageMs"] == {"read": 0.0, "work": 0.0, "render": 0.0, "upload": 50.0}
