"""Any end of a record's task reaches the tracker: cancelled, failed, interrupted or broken at any await."""

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from structlog.testing import capture_logs

from filemill.adapters.memory.broker import MemoryBroker
from filemill.adapters.memory.publisher import MemoryPublisher
from filemill.adapters.memory.record_source import MemoryRecordSource
from filemill.domain.records import Record
from filemill.errors import Unavailable
from filemill_workers.file_processor import consumer, share_consumer
from filemill_workers.file_processor.consumer import FileProcessor
from filemill_workers.file_processor.executor import Executor, FinishedRecord, _Sequence
from filemill_workers.file_processor.record_task import RecordTask
from filemill_workers.file_processor.reporter import Reporter
from filemill_workers.file_processor.share_consumer import ShareProcessor
from tests.unit.executor_harness import CREATE, TOPICS, Bench, bench, eventually, record, request

KEY_1 = "file-1-1767528000000.txt"
BUG = "Processing of a record ended without a result. This is a bug. The record is processed again"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Nobody reads these tracebacks, and to print one takes seconds on a busy machine."""
    with capture_logs():
        yield


class Panic(BaseException):
    """What a client's Rust code raises: no Exception."""


def let_go(it: Bench) -> list[int]:
    """The files that the worker reported as cancelled."""
    return [event["fileId"] for event in it.events(TOPICS.worker_events) if event["kind"] == "cancelled"]


# --- a cancel that comes again


@contextmanager
def cancelled_and_unacknowledged() -> Iterator[Bench]:
    """One record in progress whose file was cancelled; the broker has not acknowledged that it was let go."""
    broker = MemoryBroker(dict.fromkeys([CREATE, TOPICS.created, TOPICS.progress, TOPICS.worker_events], 1))
    report = Reporter(MemoryPublisher(broker), TOPICS.worker_events, "worker-1", "consumer", 0)
    with bench(processing_seconds=60, report=report) as it:
        it.start(record(0))
        eventually(lambda: any(p.idle_until for group in it.workshop._tasks.values() for p in group.values()))
        it.broker.outage = "away"
        it.workshop.cancel([(1, 1)])
        eventually(lambda: it.workshop._pending_deliveries == 1)
        yield it


def test_a_second_cancel_that_comes_before_the_first_is_acknowledged_changes_nothing() -> None:
    with capture_logs() as logs, cancelled_and_unacknowledged() as it:
        it.workshop.cancel([(1, 1)])
        it.workshop.cancel([(1, 1)])
        it.broker.outage = None
        assert it.finished(1) == [FinishedRecord(0, 1, 0)]
        assert let_go(it) == [1], "it is reported once"
        assert not [line for line in logs if line["log_level"] == "error"]


def test_a_record_of_a_cancelled_file_that_is_read_again_is_not_interrupted_by_the_replayed_command() -> None:
    """A worker starts, reads a record of a cancelled file, and only then the command."""
    broker = MemoryBroker({TOPICS.worker_events: 1})
    report = Reporter(MemoryPublisher(broker), TOPICS.worker_events, "worker-1", "consumer", 0)
    with bench(report=report) as it:
        it.cancelled.add((1, 1))
        it.broker.outage = "away"
        it.start(record(0))
        eventually(lambda: it.workshop._pending_deliveries == 1)
        it.workshop.cancel([(1, 1)])
        it.broker.outage = None
        assert it.finished(1) == [FinishedRecord(0, 1, 0)]


def test_abandoning_a_cancelled_record_ends_it_without_a_word() -> None:
    with cancelled_and_unacknowledged() as it:
        it.workshop.abandon({0: 1})
        eventually(lambda: it.workshop.in_progress({0: 1}) == 0)
        it.broker.outage = None
        eventually(lambda: it.workshop._pending_deliveries == 0)
        assert it.nothing_finished()


def test_a_record_that_is_cancelled_and_abandoned_at_once_is_abandoned() -> None:
    with bench(processing_seconds=60) as it:
        it.start(record(0))
        eventually(lambda: any(p.idle_until for group in it.workshop._tasks.values() for p in group.values()))
        gate = threading.Event()
        it.workshop._loop.call_soon_threadsafe(gate.wait)
        it.workshop.cancel([(1, 1)])
        threading.Timer(0.05, gate.set).start()
        it.workshop.abandon({0: 1})
        eventually(lambda: it.workshop.in_progress({0: 1}) == 0)
        assert it.nothing_finished()


# --- ends that nobody asked for


def interrupt(it: Bench) -> None:
    """Cancel the tasks without being abandoned or cancelled: what a bug would do."""

    def all_of_them() -> None:
        for group in it.workshop._tasks.values():
            for task in group:
                task.cancel()

    it.workshop._loop.call_soon_threadsafe(all_of_them)


def test_a_record_whose_task_is_cancelled_by_nobody_is_processed_again_and_that_is_logged() -> None:
    with capture_logs() as logs, bench() as it:
        it.store.holding.add(KEY_1)
        it.start(record(0, partition=2))
        eventually(lambda: it.store.tries)
        interrupt(it)
        eventually(lambda: len(it.store.tries) == 2)
        it.store.holding.clear()
        assert it.finished(1) == [FinishedRecord(2, 1, 0)]
        assert it.results() == {1: "completed"}
        (line,) = [line for line in logs if line["event"] == BUG]
        assert (line["log_level"], line["partition"], line["offset"], line["stage"]) == ("error", 2, 0, "upload")


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Panic("a panic in a client")])
def test_a_store_that_raises_what_is_no_exception_holds_up_one_record_and_for_a_while(error: BaseException) -> None:
    with capture_logs() as logs, bench() as it:
        it.store.failing[KEY_1] = error
        it.start(record(0), record(1))
        assert it.finished(1) == [FinishedRecord(0, 1, 1)]
        eventually(lambda: len(it.store.tries) > 4)
        it.store.failing.clear()
        assert it.finished(1) == [FinishedRecord(0, 1, 0)]
        assert it.results() == {1: "completed", 2: "completed"}
        assert len([line for line in logs if line["event"] == BUG]) >= 3


def test_a_record_that_breaks_again_and_again_is_tried_at_a_bounded_speed() -> None:
    with bench() as it:
        passage = RecordTask(record(0), it.workshop._context)
        assert all(passage.record_rerun() >= it.workshop._context.retry_policy.base_seconds for _ in range(100))
        assert passage.record_rerun() <= it.workshop._context.retry_policy.cap_seconds


def test_a_rerun_is_reported_with_the_records_place_and_the_error() -> None:
    broker = MemoryBroker({TOPICS.worker_events: 1})
    report = Reporter(MemoryPublisher(broker), TOPICS.worker_events, "worker-1", "consumer", 0)
    with bench(report=report) as it:
        it.store.failing[KEY_1] = Panic("a panic in a client")
        it.start(record(0, partition=2))
        eventually(lambda: it.store.tries)
        it.store.failing.clear()
        it.finished(1)
        told = [each.value or b"" for each in broker.records(TOPICS.worker_events)]
        assert any(b'"retrying"' in value and b"a panic in a client" in value for value in told)


def test_a_failure_while_the_record_is_dead_lettered_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = iter([True, True])
    headers = RecordTask._dead_letter_headers

    def breaks(passage: RecordTask, *given: Any) -> Any:
        if next(broken, False):
            raise ValueError("a bug in what describes a dead letter")
        return headers(passage, *given)

    monkeypatch.setattr(RecordTask, "_dead_letter_headers", breaks)
    with bench() as it:
        it.start(record(0, value=b"not json"))
        assert it.finished(1) == [FinishedRecord(0, 1, 0)]
        assert len(it.broker.records(TOPICS.dead_letters)) == 1


def test_one_at_a_time_the_next_record_waits_for_one_that_is_run_again() -> None:
    with bench(one_at_a_time=True) as it:
        it.store.holding.add(KEY_1)
        it.start(record(0), record(1))
        eventually(lambda: it.store.tries)
        interrupt(it)
        eventually(lambda: len(it.store.tries) == 2)
        it.store.holding.clear()
        assert [done.offset for done in it.finished(2)] == [0, 1]


def test_a_record_that_waits_to_be_run_again_can_be_abandoned() -> None:
    with bench() as it:
        it.store.failing[KEY_1] = Panic("a panic in a client")
        it.start(record(0))
        eventually(lambda: len(it.store.tries) > 2)
        it.workshop.abandon({0: 1})
        eventually(lambda: it.workshop.in_progress({0: 1}) == 0)
        tries = len(it.store.tries)
        it.store.failing.clear()
        time.sleep(0.02)
        assert len(it.store.tries) == tries
        assert it.nothing_finished()


def test_an_error_in_a_receipts_callback_does_not_stop_the_collection_of_the_others() -> None:
    with bench() as it:
        polled = iter([True])
        poll = it.publisher.poll

        def breaks(seconds: float = 0) -> int:
            if next(polled, False):
                raise ValueError("a bug in a callback")
            return poll(seconds)

        it.publisher.poll = breaks  # type: ignore[method-assign]
        it.start(record(0))
        assert it.finished(1) == [FinishedRecord(0, 1, 0)]


def test_a_workshop_whose_thread_has_ended_says_so_instead_of_waiting_for_ever() -> None:
    it = Bench()
    it.workshop.close()
    with pytest.raises(RuntimeError, match="has ended"):
        it.workshop.vitals()


# --- all of it, at every await


class _Hooked:
    """Awaits a coroutine and calls `suspended` at each of its suspensions; what that returns is raised inside."""

    def __init__(self, inner: Coroutine[Any, Any, None], suspended: Callable[[], BaseException | None]) -> None:
        self._inner = inner
        self._suspended = suspended

    def __await__(self) -> Generator[Any, Any, None]:
        step: Callable[[], Any] = functools.partial(self._inner.send, None)
        while True:
            try:
                waits_for = step()
            except StopIteration:
                return
            error = self._suspended()
            try:
                answer = yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - a cancellation goes where the coroutine waits
                step = functools.partial(self._inner.throw, thrown)
            else:
                step = (
                    functools.partial(self._inner.throw, error)
                    if error
                    else functools.partial(self._inner.send, answer)
                )


class Interrupted(Executor):
    """Does to records what the plan says: at the n-th suspension of a record, counted over all that is run of it."""

    plan: dict[tuple[int, int], str]

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.plan = {}
        self.suspensions: dict[int, int] = {}
        self.lose: Callable[[int], None] = lambda _partition: None
        self.ended: set[tuple[int, int, int]] = set()  # finished, by partition, epoch and offset
        self.over: set[tuple[int, int]] = set()  # abandoned epochs
        self.wrong: list[str] = []
        self._inner: dict[RecordTask, Coroutine[Any, Any, None]] = {}

    def _spawn(self, run: Coroutine[Any, Any, None], passage: RecordTask, *rest: Any) -> None:
        async def hooked() -> None:
            await _Hooked(run, functools.partial(self._suspended, passage))

        self._inner[passage] = run
        super()._spawn(hooked(), passage, *rest)

    def _on_task_done(self, passage: RecordTask, *rest: Any) -> None:
        self._inner.pop(passage).close()  # a task that was cancelled at once never began it
        super()._on_task_done(passage, *rest)

    async def _run(self, passage: RecordTask, epoch: tuple[int, int], turn: _Sequence | None) -> None:
        await super()._run(passage, epoch, turn)
        place = (*epoch, passage.record.offset)
        if place in self.ended:
            self.wrong.append(f"finished twice: {place}")
        if epoch in self.over:
            self.wrong.append(f"finished after its epoch was over: {place}")
        self.ended.add(place)

    def _abandon(self, epochs: set[tuple[int, int]], idle_longer_than: float | None) -> None:
        super()._abandon(epochs, idle_longer_than)
        if idle_longer_than is None:
            self.over |= epochs

    def _suspended(self, passage: RecordTask) -> BaseException | None:
        file_id = passage.file_run[0] or 0
        self.suspensions[file_id] = count = self.suspensions.get(file_id, 0) + 1
        act = self.plan.pop((file_id, count), None)
        task = asyncio.current_task()
        assert task is not None
        match act:
            case "cancel":
                self._loop.call_soon(self._cancel, {passage.file_run})
            case "cancel at once":
                self._cancel({(file_id, 1)})
            case "interrupt":
                self._loop.call_soon(task.cancel)
            case "interrupt at once":
                task.cancel()
            case "fail":
                return ValueError("a bug")
            case "away":
                return Unavailable("away")
            case "panic":
                return Panic("a panic in a client")
            case "lose":
                self.lose(passage.record.partition)
        return None


class HandedOut:
    """A member of a share group whose batches are the test's. (port: ShareSource)."""

    batch_seconds = 60.0

    def __init__(self, records: list[Record]) -> None:
        self.left = list(records)
        self.batch: dict[tuple[int, int], Record] = {}
        self.accepted: list[tuple[int, int]] = []

    def read(self, seconds: float) -> list[Record]:
        assert not self.batch, "the last batch is not over"
        self.batch = {(each.partition, each.offset): each for each in self.left[:3]}
        del self.left[:3]
        if not self.batch:
            time.sleep(min(seconds, 0.001))
        return list(self.batch.values())

    def accept(self, partition: int, offset: int) -> None:
        del self.batch[partition, offset]
        self.accepted.append((partition, offset))

    def release(self, partition: int, offset: int) -> None:
        self.left.append(self.batch.pop((partition, offset)))

    def commit_async(self) -> None:
        """Nothing to send."""

    def commit_sync(self, seconds: float) -> None:
        """Nothing to send."""

    def close(self) -> None:
        """Nothing to leave."""


ACTS = ["cancel", "cancel at once", "interrupt", "interrupt at once", "fail", "away", "panic", "lose"]
FILES = 6
plans = st.dictionaries(st.tuples(st.integers(1, FILES), st.integers(1, 12)), st.sampled_from(ACTS), max_size=14)
often = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(consumer, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(consumer, "BATCHING_SECONDS", 0.0)
    monkeypatch.setattr(share_consumer, "WAIT_SECONDS", 0.001)


@contextmanager
def planned(plan: dict[tuple[int, int], str], *, one_at_a_time: bool) -> Iterator[tuple[Bench, Interrupted]]:
    """A workshop that follows the plan, whose records have all kinds of awaits: a broker to ask, steps, uploads."""
    broker = MemoryBroker({CREATE: 2, TOPICS.worker_events: 1})
    report = Reporter(MemoryPublisher(broker), TOPICS.worker_events, "worker-1", "consumer", 0)
    made = {"processing_seconds": 0.002, "processing_steps": 2, "uploads": 1, "report": report}
    with bench(workshop=Interrupted, one_at_a_time=one_at_a_time, **made) as it:
        workshop = it.workshop
        assert isinstance(workshop, Interrupted)
        workshop.plan = dict(plan)
        yield it, workshop


@contextmanager
def running(processor: FileProcessor | ShareProcessor, join: Callable[..., Any]) -> Iterator[threading.Thread]:
    """The processor on a thread of its own, stopped at the end."""
    thread = threading.Thread(target=processor.run, args=(join,))
    thread.start()
    try:
        yield thread
    finally:
        processor.stop()
        thread.join(10)
        assert not thread.is_alive()


@often
@given(plan=plans, one_at_a_time=st.booleans())
@pytest.mark.usefixtures("_no_waiting")
def test_whatever_happens_to_records_all_offsets_of_a_partition_are_committed(
    plan: dict[tuple[int, int], str], one_at_a_time: bool
) -> None:
    with planned(plan, one_at_a_time=one_at_a_time) as (it, workshop):
        for file_id in range(1, FILES + 1):
            it.broker.append(CREATE, file_id % 2, request(file_id), [("filemill-run", b"1")])
        processor = FileProcessor(workshop, worker_id="worker-1", concurrency=4, drain_seconds=0.0)
        source = MemoryRecordSource(it.broker, CREATE, processor)

        def lose(partition: int) -> None:
            source.lose([partition])
            source.assign([partition])

        workshop.lose = lose
        source.assign([0, 1])
        with running(processor, lambda _listener: source):
            eventually(lambda: [it.broker.committed(part)[0] for part in (0, 1)] == [3, 3], f"{workshop.plan}")
    assert workshop.wrong == []


@often
@given(plan=plans)
@pytest.mark.usefixtures("_no_waiting")
def test_whatever_happens_to_records_a_share_groups_member_accepts_each_once(plan: dict[tuple[int, int], str]) -> None:
    with planned(plan, one_at_a_time=False) as (_it, workshop):
        source = HandedOut([record(number, partition=number % 2) for number in range(FILES)])
        asleep = threading.Event()
        workshop.lose = lambda _partition: asleep.set()

        def hold() -> None:
            return None

        processor = ShareProcessor(workshop, drain_seconds=0.0, backpressure_reason=hold)
        turn = processor.step

        def turn_or_sleep(given: HandedOut) -> None:
            if asleep.is_set():
                asleep.clear()
                processor._stepped_at = float("-inf")  # as if the process had been stopped for an hour
            turn(given)

        processor.step = turn_or_sleep  # type: ignore[method-assign,assignment]
        with running(processor, lambda: source):
            eventually(lambda: len(source.accepted) == FILES, f"{source.left} {source.batch} {workshop.plan}")
        assert len(set(source.accepted)) == FILES
    assert workshop.wrong == []
