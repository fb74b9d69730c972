"""From record to file: effects in their order, failures that hold up nobody, and nothing after an abandonment."""

import json
import threading
import time
from datetime import UTC, datetime

import msgspec
import pytest

from filemill.domain.content import render, sha256_hex
from filemill.domain.messages import FileCreated, decode, header
from filemill.domain.worker_events import EventKind
from filemill.errors import DeadLetterCode, PermanentError, Unavailable
from filemill_workers.file_processor import record_task
from filemill_workers.file_processor.executor import FinishedRecord
from tests.unit.executor_harness import CREATE, TOPICS, TRACE, bench, eventually, record, request

REQUESTED_AT = datetime(2026, 1, 4, 12, 0, tzinfo=UTC)
KEY_1 = "file-1-1767528000000.txt"


# --- the way of a good record


def test_a_record_becomes_an_object_and_an_event() -> None:
    with bench() as it:
        it.start(record(0, partition=2))
        assert it.finished(1) == [FinishedRecord(2, 1, 0)]
        body = render("File 1", "d", REQUESTED_AT)
        assert it.store.objects == {KEY_1: body}
        assert it.store.metadata[KEY_1]["sha256"] == sha256_hex(body)
        assert datetime.fromisoformat(it.store.metadata[KEY_1]["processed-at"]).utcoffset() is not None
        (event,) = it.events()
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
        assert it.events(TOPICS.dead_letters) == []


def test_every_so_many_th_file_is_a_long_job() -> None:
    with bench(long_job_every=3, long_job_seconds=0.6) as it:
        it.start(*(record(offset) for offset in range(6)))
        assert [done.offset for done in it.finished(4)] == [0, 1, 3, 4]
        assert it.nothing_finished()
        assert sorted(done.offset for done in it.finished(2)) == [2, 5]


def test_the_trace_context_goes_on_with_the_event() -> None:
    with bench() as it:
        it.start(record(0))
        it.finished(1)
        (event,) = it.broker.records(TOPICS.created)
        assert header(event.headers, "traceparent") == TRACE


@pytest.mark.parametrize("run", [None, b"", b"none", b"0", b"1" * 25, b"9" * 5000, b"4294967296", b"\xff"])
def test_a_request_without_a_usable_run_has_a_result_without_a_run(run: bytes | None) -> None:
    with bench() as it:
        it.start(record(0, run=run), record(1))
        assert len(it.finished(2)) == 2
        events = [decode(each.value, FileCreated) for each in it.broker.records(TOPICS.created)]
        assert {(event.file_id, event.run) for event in events} == {(1, None), (2, 1)}


def test_a_redelivered_record_finds_its_object_and_writes_nothing() -> None:
    with bench() as it:
        it.start(record(0))
        it.finished(1)
        it.start(record(0), epoch=2)
        it.finished(1)
        assert it.store.tries == [KEY_1, KEY_1]
        assert it.store.puts == [KEY_1]
        assert [event["status"] for event in it.events()] == ["completed", "completed"]


def test_a_record_whose_key_has_another_object_is_parked_and_the_object_stays() -> None:
    with bench() as it:
        it.start(record(0))
        it.finished(1)
        before = it.store.objects[KEY_1]
        it.start(record(1, value=request(1, title="Forged")), record(2))
        it.finished(2)
        assert it.store.objects[KEY_1] == before
        assert it.store.tries.count(KEY_1) == 2, "no further attempt"
        (letter,) = it.broker.records(TOPICS.dead_letters)
        assert dict(letter.headers)["filemill-code"] == b"object_exists"
        assert f"Another object has the key {KEY_1}" in str(dict(letter.headers)["filemill-reason"])
        assert [(event["fileId"], event["status"]) for event in it.events() if event["fileId"] == 1] == [
            (1, "completed"),
            (1, "failed"),
        ]


def test_an_object_is_compared_by_its_bytes_whatever_its_metadata_claims() -> None:
    with bench() as it:
        it.store.objects[KEY_1] = b"forged"
        it.store.metadata[KEY_1] = {"sha256": sha256_hex(render("File 1", "d", REQUESTED_AT))}
        it.start(record(0))
        it.finished(1)
        assert it.results() == {1: "failed"}
        assert it.store.objects[KEY_1] == b"forged"


def test_a_record_that_finds_the_object_of_its_own_lost_answer_is_completed() -> None:
    with bench() as it:
        it.store.losing_answers = True
        it.start(record(0))
        assert it.finished(1) == [FinishedRecord(0, 1, 0)]
        assert it.store.tries == [KEY_1, KEY_1]
        assert it.results() == {1: "completed"}
        assert it.events(TOPICS.dead_letters) == []


def test_an_object_that_is_deleted_before_it_is_compared_is_written_by_the_next_attempt() -> None:
    with bench() as it:
        it.store.objects[KEY_1] = b"forged"
        it.store.vanishing = True
        it.start(record(0))
        it.finished(1)
        assert it.results() == {1: "completed"}
        assert it.store.puts == [KEY_1]


def test_the_result_is_announced_after_the_object_and_finished_after_the_acknowledgement() -> None:
    with bench() as it:
        it.store.holding.add(KEY_1)
        it.broker.outage = "away"
        it.start(record(0))
        eventually(lambda: it.store.tries == [KEY_1])
        assert it.events() == []
        it.store.holding.clear()
        eventually(lambda: it.store.puts == [KEY_1])
        eventually(lambda: it.workshop._pending_deliveries == 1)
        assert it.nothing_finished(), "the broker has not acknowledged it"
        it.broker.outage = None
        assert it.finished(1) == [FinishedRecord(0, 1, 0)]


def test_a_refused_acknowledgement_does_not_finish_a_record() -> None:
    with bench() as it:
        it.broker.reject_reason = "Broker: Not enough in-sync replicas"
        it.start(record(0))
        eventually(lambda: it.broker.rejected > 3)
        assert it.nothing_finished()
        assert it.events() == []
        assert len(it.store.puts) == 1, "only the announcement is tried again"
        it.broker.reject_reason = None
        it.finished(1)
        assert it.results() == {1: "completed"}
        assert it.events()[0]["attempt"] == 1, "an outage is no attempt"


def test_a_thousand_records_wait_out_their_time_together() -> None:
    with bench(processing_seconds=0.3, processing_steps=3) as it:
        began = time.monotonic()
        it.start(*(record(offset) for offset in range(1000)))
        assert it.workshop.in_progress({0: 1}) <= 1000
        assert len(it.finished(1000)) == 1000
        assert 0.3 <= time.monotonic() - began < 20, "one after the other they would take 300 s"
        assert it.events(TOPICS.progress) == [], "done within a second: progress is not worth an event"


def test_progress_is_told_at_most_once_a_second_with_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_task, "PROGRESS_INTERVAL_SECONDS", 0.05)
    with bench(processing_seconds=0.3, processing_steps=30) as it:
        began = time.monotonic()
        it.start(record(0, partition=1))
        it.finished(1)
        told = it.events(TOPICS.progress)
        assert 2 <= len(told) <= (time.monotonic() - began) / 0.05 + 1
        assert len(told) < 30
        steps = sorted(event["step"] for event in told)
        assert steps[0] == 0
        assert len(set(steps)) == len(steps)
        assert all(event["steps"] == 30 and event["fileId"] == 1 and event["partition"] == 1 for event in told)


def test_progress_that_the_broker_does_not_take_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_task, "PROGRESS_INTERVAL_SECONDS", 0.0)
    with bench(processing_seconds=0.01, processing_steps=2) as it:
        it.broker.reject_reason = "refused"
        it.start(record(0))
        eventually(lambda: it.store.puts)
        it.broker.reject_reason = None
        it.finished(1)


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
def test_a_poisonous_record_goes_to_the_dead_letters_at_once_and_untouched(value: bytes) -> None:
    with bench() as it:
        it.start(record(7, partition=1, value=value), record(8, partition=1))
        assert {each.offset for each in it.finished(2)} == {7, 8}
        (letter,) = it.broker.records(TOPICS.dead_letters)
        assert letter.value == value
        named = {name: (raw or b"").decode() for name, raw in letter.headers}
        assert named["filemill-reason"]
        assert (named["filemill-topic"], named["filemill-partition"], named["filemill-offset"]) == (CREATE, "1", "7")
        assert named["filemill-attempts"] == "1"
        assert named["filemill-worker"] == "worker-1"
        assert named["traceparent"] == TRACE, "the original's headers are kept"
        assert it.store.puts == ["file-9-1767528000000.txt"]


def test_a_poisonous_record_of_a_known_file_fails_its_file_with_the_reason() -> None:
    with bench() as it:
        it.start(record(0, value=request(42, title="a\nb"), run=b"3"))
        it.finished(1)
        (event,) = it.events()
        assert (event["fileId"], event["status"], event["run"]) == (42, "failed", 3)
        assert "title" in event["error"]
        assert "s3Location" not in event


def test_a_poisonous_record_of_nobody_has_no_event() -> None:
    with bench() as it:
        it.start(record(0, value=b"not json"))
        it.finished(1)
        assert it.events() == []


def test_a_record_whose_headers_cannot_be_read_is_parked_with_a_code() -> None:
    with bench() as it:
        it.start(msgspec.structs.replace(record(0), headers=[], headers_error="headers unreadable: why"), record(1))
        it.finished(2)
        (letter,) = it.broker.records(TOPICS.dead_letters)
        assert letter.value == record(0).value
        assert dict(letter.headers)["filemill-code"] == b"headers_unreadable"
        assert dict(letter.headers)["filemill-reason"] == b"headers unreadable: why"


def test_a_dead_letter_keeps_all_headers_in_their_order_null_ones_too() -> None:
    with bench() as it:
        headers = [("a", None), ("b", b""), ("a", b"2"), ("b", None)]
        it.start(msgspec.structs.replace(record(0, value=b"{}"), headers=headers))
        it.finished(1)
        (letter,) = it.broker.records(TOPICS.dead_letters)
        assert letter.headers[:4] == headers


def test_an_error_of_the_records_own_has_its_attempts_and_then_parks() -> None:
    with bench() as it:
        it.store.failing[KEY_1] = ValueError("boom")
        it.start(record(0))
        it.finished(1)
        assert it.store.tries == [KEY_1] * 3
        (letter,) = it.broker.records(TOPICS.dead_letters)
        named = {name: (raw or b"").decode() for name, raw in letter.headers}
        assert named["filemill-attempts"] == "3"
        assert "boom" in named["filemill-trace"]
        (event,) = it.events()
        assert (event["status"], event["attempt"]) == ("failed", 3)
        assert "ValueError: boom" in event["error"]


def test_an_error_that_passes_completes_and_says_at_which_attempt() -> None:
    with bench() as it:
        it.store.failing[KEY_1] = ValueError("boom")
        it.start(record(0))
        eventually(lambda: it.store.tries)
        it.store.failing.clear()
        it.finished(1)
        (event,) = it.events()
        assert event["status"] == "completed"
        assert event["attempt"] == len(it.store.tries)
        assert it.events(TOPICS.dead_letters) == []


def test_an_outage_of_s3_costs_no_attempt_however_long_it_lasts() -> None:
    with bench() as it:
        it.store.failing[KEY_1] = Unavailable("S3 is away")
        it.start(record(0))
        eventually(lambda: len(it.store.tries) > 20)
        assert it.nothing_finished()
        assert it.events(TOPICS.dead_letters) == []
        it.store.failing.clear()
        it.finished(1)
        (event,) = it.events()
        assert (event["status"], event["attempt"]) == ("completed", 1)


def test_an_outage_at_the_end_does_not_repeat_the_work() -> None:
    with bench(processing_seconds=0.5, processing_steps=1) as it:
        it.store.failing[KEY_1] = Unavailable("S3 is away")
        it.start(record(0))
        eventually(lambda: len(it.store.tries) > 100, "each try works for half a second again")
        it.store.failing.clear()
        it.finished(1)


def test_one_bad_record_delays_nobody() -> None:
    with bench() as it:
        it.store.holding.add(KEY_1)
        it.store.failing["file-2-1767528000000.txt"] = Unavailable("for this one")
        it.start(*(record(offset) for offset in range(50)))
        assert sorted(each.offset for each in it.finished(48)) == list(range(2, 50))
        it.store.holding.clear()
        it.store.failing.clear()
        assert sorted(each.offset for each in it.finished(2)) == [0, 1]


def test_a_dead_letter_waits_for_the_broker_and_finishes_only_then() -> None:
    with bench() as it:
        it.broker.reject_reason = "refused"
        it.start(record(0, value=request(1, title="")))
        eventually(lambda: it.workshop.in_progress({0: 1}) == 1)
        assert it.nothing_finished()
        it.broker.reject_reason = None
        it.finished(1)
        assert len(it.broker.records(TOPICS.dead_letters)) == 1
        assert it.results() == {1: "failed"}


def test_a_dead_letter_that_is_too_large_is_kept_without_its_value() -> None:
    huge = request(1, description="a" * (2 * 1024 * 1024))
    with bench() as it:
        it.start(record(0, value=huge), record(1))
        it.finished(2)
        (letter,) = it.broker.records(TOPICS.dead_letters)
        assert letter.value is None
        assert header(letter.headers, "filemill-value-omitted-bytes") == str(len(huge))
        assert it.results() == {1: "failed", 2: "completed"}


def test_a_long_trace_is_cut() -> None:
    with bench() as it:
        it.store.failing[KEY_1] = ValueError("x" * 100_000)
        it.start(record(0))
        it.finished(1)
        (letter,) = it.broker.records(TOPICS.dead_letters)
        trace = header(letter.headers, "filemill-trace")
        assert trace is not None
        assert len(trace) <= record_task.TRACE_MAX_CHARACTERS


def test_a_poison_of_the_publisher_is_no_outage() -> None:
    """Too large for Kafka is for ever: it must not be retried as if the broker were away."""
    with bench() as it:
        it.store.failing[KEY_1] = PermanentError("too large", DeadLetterCode.RECORD_TOO_LARGE)
        it.start(record(0))
        it.finished(1)
        assert it.store.tries == [KEY_1]
        assert it.results() == {1: "failed"}


# --- in order, or not


def test_without_an_order_records_finish_as_they_are_done() -> None:
    with bench() as it:
        it.store.holding.add(KEY_1)
        it.start(record(0), record(1))
        assert it.finished(1)[0].offset == 1
        it.store.holding.clear()
        assert it.finished(1)[0].offset == 0


def test_one_at_a_time_keeps_the_order_of_a_partition_and_not_between_partitions() -> None:
    with bench(one_at_a_time=True) as it:
        it.store.holding.add(KEY_1)
        it.start(record(0), record(1), record(2), record(10, partition=1), record(11, partition=1))
        assert [(each.partition, each.offset) for each in it.finished(2)] == [(1, 10), (1, 11)]
        assert it.store.tries.count("file-2-1767528000000.txt") == 0, "not begun"
        it.start(record(3))
        it.store.holding.clear()
        assert [each.offset for each in it.finished(4)] == [0, 1, 2, 3]


def test_one_at_a_time_goes_on_after_a_poisonous_record() -> None:
    with bench(one_at_a_time=True) as it:
        it.start(record(0, value=b"not json"), record(1))
        assert [each.offset for each in it.finished(2)] == [0, 1]


def test_uploads_in_flight_are_bounded() -> None:
    with bench(uploads=2) as it:
        keys = [f"file-{number}-1767528000000.txt" for number in range(1, 6)]
        it.store.holding.update(keys)
        it.start(*(record(offset) for offset in range(5)))
        eventually(lambda: len(it.store.tries) == 2)
        it.store.holding.clear()
        it.finished(5)
        assert len(it.store.tries) == 5


# --- giving up partitions


def test_what_is_abandoned_has_no_effect_afterwards() -> None:
    with bench(processing_seconds=0.2, processing_steps=1) as it:
        it.start(record(0), record(5, partition=1))
        eventually(lambda: it.workshop.in_progress({0: 1, 1: 1}) == 2)
        it.workshop.abandon({0: 1})
        eventually(lambda: it.workshop.in_progress({0: 1}) == 0)
        assert it.finished(1) == [FinishedRecord(1, 1, 5)]
        assert it.results() == {6: "completed"}
        assert list(it.store.objects) == ["file-6-1767528000000.txt"]


def test_abandoning_an_epoch_leaves_the_next_one_of_the_partition_alone() -> None:
    with bench(processing_seconds=0.05, processing_steps=1) as it:
        it.start(record(0), epoch=1)
        it.start(record(0), epoch=2)
        it.workshop.abandon({0: 1})
        assert it.finished(1) == [FinishedRecord(0, 2, 0)]
        assert it.nothing_finished()


def test_only_what_would_wait_too_long_is_dropped_before_a_drain() -> None:
    with bench(processing_seconds=30, processing_steps=1) as slow:
        slow.start(record(0))
        eventually(lambda: slow.workshop.in_progress({0: 1}) == 1)
        eventually(lambda: any(p.idle_until for group in slow.workshop._tasks.values() for p in group.values()))
        slow.workshop.abandon({0: 1}, idle_longer_than=60)
        assert slow.workshop.in_progress({0: 1}) == 1
        slow.workshop.abandon({0: 1}, idle_longer_than=5)
        eventually(lambda: slow.workshop.in_progress({0: 1}) == 0)
    with bench() as busy:
        busy.store.holding.add(KEY_1)
        busy.start(record(0))
        eventually(lambda: busy.store.tries)
        busy.workshop.abandon({0: 1}, idle_longer_than=0)
        busy.store.holding.clear()
        assert busy.finished(1) == [FinishedRecord(0, 1, 0)], "an upload under way is worth a moment"


def test_a_record_that_waits_for_its_turn_is_dropped_before_a_drain() -> None:
    with bench(one_at_a_time=True) as it:
        it.store.holding.add(KEY_1)
        it.start(record(0), record(1))
        eventually(lambda: it.store.tries)
        it.workshop.abandon({0: 1}, idle_longer_than=5)
        eventually(lambda: it.workshop.in_progress({0: 1}) == 1)
        it.store.holding.clear()
        assert it.finished(1) == [FinishedRecord(0, 1, 0)]
        assert list(it.store.objects) == [KEY_1]


def test_a_late_acknowledgement_of_an_abandoned_record_finishes_nothing() -> None:
    with bench() as it:
        it.broker.outage = "away"
        it.start(record(0))
        eventually(lambda: it.workshop._pending_deliveries == 1)
        it.workshop.abandon({0: 1})
        eventually(lambda: it.workshop.in_progress({0: 1}) == 0)
        it.broker.outage = None
        eventually(lambda: it.workshop._pending_deliveries == 0)
        assert it.nothing_finished()


def test_shutting_drops_everything() -> None:
    with bench(processing_seconds=60) as it:
        it.start(*(record(offset) for offset in range(20)))
        eventually(lambda: it.workshop.in_progress({0: 1}) == 20)
    assert not any(thread.name == "workshop" and thread.is_alive() for thread in threading.enumerate())
    assert it.nothing_finished()


# --- a worker that was stopped


def test_a_worker_that_was_not_polled_lately_begins_no_effect() -> None:
    with bench(membership_ttl_seconds=0.05) as it:
        time.sleep(0.06)  # what passes while a process is stopped
        it.start(record(0), record(1, value=b"not json"))
        eventually(lambda: it.workshop.in_progress({0: 1}) == 2)
        time.sleep(0.15)
        assert it.store.tries == []
        assert it.broker.records(TOPICS.dead_letters) == []

        def both_finish() -> bool:
            it.workshop.confirm_membership()
            return it.workshop.finished.qsize() == 2

        eventually(both_finish)


def test_uploads_that_waited_for_their_turn_ask_again_whether_the_worker_may_be_trusted() -> None:
    with bench(uploads=1, membership_ttl_seconds=0.2) as it:
        it.store.holding.add(KEY_1)
        it.start(record(0), record(1))

        def is_uploading() -> bool:
            it.workshop.confirm_membership()
            return it.store.tries == [KEY_1]

        eventually(is_uploading)
        time.sleep(0.25)  # the process is stopped with one upload under way and one behind it
        it.store.holding.clear()
        it.finished(1)
        time.sleep(0.1)
        assert it.store.tries == [KEY_1]
        it.workshop.confirm_membership()
        it.finished(1)


# --- cancelled files


def test_a_file_cancelled_before_its_record_is_read_is_let_go() -> None:
    with bench() as it:
        it.cancelled.add((1, 1))
        it.start(record(0), record(1))
        assert {each.offset for each in it.finished(2)} == {0, 1}
        assert list(it.store.objects) == ["file-2-1767528000000.txt"]
        assert it.results() == {2: "completed"}


def test_a_file_cancelled_while_it_waits_is_let_go_and_its_offset_finished() -> None:
    with bench(processing_seconds=60) as it:
        it.start(record(0))
        eventually(lambda: any(p.idle_until for group in it.workshop._tasks.values() for p in group.values()))
        it.workshop.cancel([(1, 1)])
        assert it.finished(1) == [FinishedRecord(0, 1, 0)]
        assert it.store.objects == {}
        assert it.events() == []


def test_another_run_of_a_cancelled_file_goes_on() -> None:
    with bench(processing_seconds=0.05) as it:
        it.start(record(0, run=b"2"))
        it.workshop.cancel([(1, 1)])
        it.finished(1)
        assert it.results() == {1: "completed"}


def test_a_file_cancelled_in_the_moment_of_its_start_is_finished_too() -> None:
    with bench() as it:
        gate = threading.Event()
        it.workshop._loop.call_soon_threadsafe(gate.wait)
        it.start(record(0))
        it.workshop.cancel([(1, 1)])
        gate.set()
        eventually(lambda: not it.workshop.finished.empty(), "its offset is stuck", seconds=1)


def test_a_file_cancelled_while_it_waits_for_its_turn_is_finished_too() -> None:
    with bench(one_at_a_time=True) as it:
        it.store.holding.add(KEY_1)
        it.start(record(0), record(1), record(2))
        eventually(lambda: it.store.tries)
        it.workshop.cancel([(2, 1)])
        it.store.holding.clear()
        assert {each.offset for each in it.finished(3, seconds=1)} == {0, 1, 2}


# --- a server that is away for everybody


def test_an_outage_is_found_out_once_and_everybody_goes_on_after_it() -> None:
    with bench(gates=True) as it:
        it.store.outage = "S3 is away"
        it.start(*(record(offset) for offset in range(200)))
        eventually(lambda: it.gates["S3"].reason)
        tries = len(it.store.tries)
        assert tries <= 200, "each had at most the one try that was under way"
        it.store.outage = None
        assert len(it.finished(200)) == 200
        assert set(it.results().values()) == {"completed"}
        assert [kind for kind, _ in it.said] == [EventKind.BREAKER_OPENED, EventKind.BREAKER_CLOSED]
        assert it.gates["S3"].reason is None


def test_a_result_is_what_the_seed_can_read() -> None:
    with bench() as it:
        it.start(record(0))
        it.finished(1)
        (event,) = it.broker.records(TOPICS.created)
        assert set(json.loads(event.value or b"")) >= {"fileId", "s3Location", "status", "timestamp"}


# --- how long each stage took


def test_a_result_says_how_long_each_stage_of_its_attempt_took() -> None:
    with bench(processing_seconds=0.05) as it:
        it.store.holding.add(KEY_1)
        it.start(record(0))
        eventually(lambda: it.store.tries == [KEY_1])
        time.sleep(0.05)
        it.store.holding.clear()
        it.finished(1)
        (event,) = it.events()
        assert set(event["stageMs"]) == {"read", "work", "render", "upload"}
        assert event["stageMs"]["work"] >= 50
        assert event["stageMs"]["upload"] >= 50 > event["stageMs"]["render"]
