"""Every end of a record's task leads to a committed offset: cancelled, failed, interrupted, or broken."""

import asyncio
import functools
import threading
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
from filemill.adapters.memory.share_source import MemoryShareGroup, MemoryShareSource
from filemill.domain.messages import RUN_HEADER
from filemill.errors import Unavailable
from filemill_workers.file_processor.consumer import ConsumerOptions, FileProcessor
from filemill_workers.file_processor.executor import Executor, FinishedRecord, _Link
from filemill_workers.file_processor.record_task import RecordTask
from filemill_workers.file_processor.reporter import Reporter
from filemill_workers.file_processor.share_consumer import ShareOptions, ShareProcessor
from tests.unit.clocks import ManualClock
from tests.unit.executor_harness import (
    CREATE,
    TOPICS,
    ExecutorHarness,
    ExecutorOptions,
    block_loop,
    record,
    request,
    running_executor,
    wait_until,
)

KEY_1 = "file-1-1767528000000.txt"
BUG = "Processing of a record ended without a result. This is a bug. The record is processed again"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Do not print the tracebacks, which takes seconds on a busy machine."""
    with capture_logs():
        yield


class Panic(BaseException):
    """A panic in Rust code raises no Exception."""


def cancelled_files(harness: ExecutorHarness) -> list[int]:
    """The files whose records the worker reported as cancelled."""
    return [event["fileId"] for event in harness.events(TOPICS.worker_events) if event["kind"] == "cancelled"]


# --- repeated cancellations


@contextmanager
def cancelled_and_unacknowledged() -> Iterator[ExecutorHarness]:
    """One record in progress whose file was cancelled; the broker has not acknowledged the event."""
    broker = MemoryBroker(dict.fromkeys([CREATE, TOPICS.created, TOPICS.progress, TOPICS.worker_events], 1))
    report = Reporter(MemoryPublisher(broker), TOPICS.worker_events, "worker-1", "consumer", 0)
    with running_executor(processing_seconds=60, reporter=report) as harness:
        harness.start(record(0))
        harness.wait_until_idle()
        harness.broker.outage = "Kafka is unreachable"
        harness.executor.cancel([(1, 1)])
        harness.wait_for_pending_deliveries(1)
        yield harness


def test_a_second_cancel_before_the_first_is_acknowledged_has_no_effect() -> None:
    with capture_logs() as logs, cancelled_and_unacknowledged() as harness:
        harness.executor.cancel([(1, 1)])
        harness.executor.cancel([(1, 1)])
        harness.broker.outage = None
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]
        assert cancelled_files(harness) == [1], "it is reported once"
        assert not [line for line in logs if line["log_level"] == "error"]


def test_a_replayed_cancel_does_not_interrupt_the_report_of_the_cancellation() -> None:
    """A worker starts, reads a record of a cancelled file, and only then the command."""
    broker = MemoryBroker({TOPICS.worker_events: 1})
    report = Reporter(MemoryPublisher(broker), TOPICS.worker_events, "worker-1", "consumer", 0)
    with running_executor(reporter=report) as harness:
        harness.cancelled.add((1, 1))
        harness.broker.outage = "Kafka is unreachable"
        harness.start(record(0))
        harness.wait_for_pending_deliveries(1)
        harness.executor.cancel([(1, 1)])
        harness.broker.outage = None
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]


def test_an_abandoned_cancelled_record_does_not_finish() -> None:
    with cancelled_and_unacknowledged() as harness:
        harness.executor.abandon({0: 1})
        wait_until(lambda: harness.executor.in_progress({0: 1}) == 0)
        harness.broker.outage = None
        harness.wait_for_pending_deliveries(0)
        assert harness.nothing_finished()


def test_a_record_that_is_cancelled_and_abandoned_together_is_abandoned() -> None:
    with running_executor(processing_seconds=60) as harness:
        harness.start(record(0))
        harness.wait_until_idle()
        gate = block_loop(harness)
        harness.executor.cancel([(1, 1)])
        threading.Timer(0.05, gate.set).start()
        harness.executor.abandon({0: 1})
        wait_until(lambda: harness.executor.in_progress({0: 1}) == 0)
        assert harness.nothing_finished()


# --- unexpected ends


class Interruptible(Executor):
    """An executor whose tasks can be cancelled without abandoning or cancelling their records. Only a bug does this."""

    def interrupt(self) -> None:
        def interrupt_all() -> None:
            for group in self._tasks.values():
                for task in group:
                    task.cancel()

        self._loop.call_soon_threadsafe(interrupt_all)


def interrupt(harness: ExecutorHarness) -> None:
    executor = harness.executor
    assert isinstance(executor, Interruptible)
    executor.interrupt()


def test_a_record_whose_task_is_interrupted_is_processed_again_and_an_error_is_logged() -> None:
    with capture_logs() as logs, running_executor(executor=Interruptible) as harness:
        harness.store.blocked.add(KEY_1)
        harness.start(record(0, partition=2))
        wait_until(lambda: harness.store.attempts)
        interrupt(harness)
        wait_until(lambda: len(harness.store.attempts) == 2)
        harness.store.blocked.clear()
        assert harness.finished(1) == [FinishedRecord(2, 1, 0)]
        assert harness.results() == {1: "completed"}
        (line,) = [line for line in logs if line["event"] == BUG]
        assert (line["log_level"], line["partition"], line["offset"], line["stage"]) == ("error", 2, 0, "upload")


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Panic("a panic in a client")])
def test_a_base_exception_of_the_store_delays_one_record_only(error: BaseException) -> None:
    with capture_logs() as logs, running_executor() as harness:
        harness.store.failing[KEY_1] = error
        harness.start(record(0), record(1))
        assert harness.finished(1) == [FinishedRecord(0, 1, 1)]
        wait_until(lambda: len(harness.store.attempts) > 4)
        harness.store.failing.clear()
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]
        assert harness.results() == {1: "completed", 2: "completed"}
        assert len([line for line in logs if line["event"] == BUG]) >= 3


def test_reruns_are_delayed_between_the_base_and_the_cap() -> None:
    with running_executor() as harness:
        record_task = RecordTask(record(0), harness.context)
        assert all(record_task.record_rerun() >= harness.context.retry_policy.base_seconds for _ in range(100))
        assert record_task.record_rerun() <= harness.context.retry_policy.cap_seconds


def test_a_rerun_is_reported_with_the_error() -> None:
    broker = MemoryBroker({TOPICS.worker_events: 1})
    report = Reporter(MemoryPublisher(broker), TOPICS.worker_events, "worker-1", "consumer", 0)
    with running_executor(reporter=report) as harness:
        harness.store.failing[KEY_1] = Panic("a panic in a client")
        harness.start(record(0, partition=2))
        wait_until(lambda: harness.store.attempts)
        harness.store.failing.clear()
        harness.finished(1)
        told = [each.value or b"" for each in broker.records(TOPICS.worker_events)]
        assert any(b'"retrying"' in value and b"a panic in a client" in value for value in told)


def test_a_failure_while_dead_lettering_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = iter([True, True])
    headers = RecordTask._dead_letter_headers

    def breaks(record_task: RecordTask, *given: Any) -> Any:
        if next(broken, False):
            raise ValueError("a bug in what describes a dead letter")
        return headers(record_task, *given)

    monkeypatch.setattr(RecordTask, "_dead_letter_headers", breaks)
    with running_executor() as harness:
        harness.start(record(0, value=b"not json"))
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]
        assert len(harness.broker.records(TOPICS.dead_letters)) == 1


def test_one_at_a_time_the_next_record_waits_for_a_rerun() -> None:
    with running_executor(executor=Interruptible, one_at_a_time=True) as harness:
        harness.store.blocked.add(KEY_1)
        harness.start(record(0), record(1))
        wait_until(lambda: harness.store.attempts)
        interrupt(harness)
        wait_until(lambda: len(harness.store.attempts) == 2)
        harness.store.blocked.clear()
        assert [done.offset for done in harness.finished(2)] == [0, 1]


def test_a_record_that_waits_for_a_rerun_can_be_abandoned() -> None:
    with running_executor() as harness:
        harness.store.failing[KEY_1] = Panic("a panic in a client")
        harness.start(record(0))
        wait_until(lambda: len(harness.store.attempts) > 2)
        harness.executor.abandon({0: 1})
        wait_until(lambda: harness.executor.in_progress({0: 1}) == 0)
        tries = len(harness.store.attempts)
        harness.store.failing.clear()
        assert len(harness.store.attempts) == tries
        assert harness.nothing_finished()


def test_an_error_in_a_delivery_callback_does_not_stop_polling() -> None:
    with running_executor() as harness:
        polled = iter([True])
        poll = harness.publisher.poll

        def breaks(seconds: float = 0) -> int:
            if next(polled, False):
                raise ValueError("a bug in a callback")
            return poll(seconds)

        harness.publisher.poll = breaks  # type: ignore[method-assign]
        harness.start(record(0))
        assert harness.finished(1) == [FinishedRecord(0, 1, 0)]


def test_a_closed_executor_raises_instead_of_waiting() -> None:
    harness = ExecutorHarness(ExecutorOptions())
    harness.executor.close()
    with pytest.raises(RuntimeError, match="has ended"):
        harness.executor.status()


# --- interruptions at every await


class _Hooked:
    """Awaits a coroutine and calls `suspended` at each suspension; raises the error that it returns inside."""

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
    """Interrupts records by a plan: at the n-th suspension of a record, counted over all its runs."""

    plan: dict[tuple[int, int], str]

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.plan = {}
        self.suspensions: dict[int, int] = {}
        self.lose: Callable[[int], None] = lambda _partition: None
        self.ended: set[tuple[int, int, int]] = set()  # finished, by partition, epoch and offset
        self.over: set[tuple[int, int]] = set()  # abandoned epochs
        self.violations: list[str] = []
        self._inner: dict[RecordTask, Coroutine[Any, Any, None]] = {}

    def _spawn(self, run: Coroutine[Any, Any, None], record_task: RecordTask, *rest: Any) -> None:
        async def hooked() -> None:
            await _Hooked(run, functools.partial(self._suspended, record_task))

        self._inner[record_task] = run
        super()._spawn(hooked(), record_task, *rest)

    def _on_task_done(self, record_task: RecordTask, *rest: Any) -> None:
        self._inner.pop(record_task).close()  # a task that was cancelled at once never began it
        super()._on_task_done(record_task, *rest)

    async def _run(self, record_task: RecordTask, epoch: tuple[int, int], link: _Link | None) -> None:
        await super()._run(record_task, epoch, link)
        key = (*epoch, record_task.record.offset)
        if key in self.ended:
            self.violations.append(f"finished twice: {key}")
        if epoch in self.over:
            self.violations.append(f"finished after its epoch was over: {key}")
        self.ended.add(key)

    def _abandon(self, epochs: set[tuple[int, int]], idle_longer_than: float | None) -> None:
        super()._abandon(epochs, idle_longer_than)
        if idle_longer_than is None:
            self.over |= epochs

    def _suspended(self, record_task: RecordTask) -> BaseException | None:
        file_id = record_task.file_run[0] or 0
        self.suspensions[file_id] = count = self.suspensions.get(file_id, 0) + 1
        act = self.plan.pop((file_id, count), None)
        task = asyncio.current_task()
        assert task is not None
        match act:
            case "cancel":
                self._loop.call_soon(self._cancel, {record_task.file_run})
            case "cancel at once":
                self._cancel({(file_id, 1)})
            case "interrupt":
                self._loop.call_soon(task.cancel)
            case "interrupt at once":
                task.cancel()
            case "fail":
                return ValueError("a bug")
            case "unavailable":
                return Unavailable("S3 is unreachable")
            case "panic":
                return Panic("a panic in a client")
            case "lose":
                self.lose(record_task.record.partition)
        return None


ACTS = ["cancel", "cancel at once", "interrupt", "interrupt at once", "fail", "unavailable", "panic", "lose"]
FILES = 6
plans = st.dictionaries(st.tuples(st.integers(1, FILES), st.integers(1, 12)), st.sampled_from(ACTS), max_size=14)
often = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def planned(plan: dict[tuple[int, int], str], *, one_at_a_time: bool) -> Iterator[tuple[ExecutorHarness, Interrupted]]:
    """An executor that follows the plan. Its records await the broker, simulated steps and upload slots."""
    broker = MemoryBroker(dict.fromkeys([CREATE, TOPICS.created, TOPICS.progress, TOPICS.dead_letters], 2))
    broker.add_partitions(TOPICS.worker_events, 1)
    reporter = Reporter(MemoryPublisher(broker), TOPICS.worker_events, "worker-1", "consumer", 0)
    with running_executor(
        executor=Interrupted,
        broker=broker,
        one_at_a_time=one_at_a_time,
        processing_seconds=0.002,
        processing_steps=2,
        upload_slots=1,
        reporter=reporter,
    ) as harness:
        executor = harness.executor
        assert isinstance(executor, Interrupted)
        executor.plan = dict(plan)
        yield harness, executor


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
def test_all_offsets_are_committed_for_any_plan_of_interruptions(
    plan: dict[tuple[int, int], str], one_at_a_time: bool
) -> None:
    options = ConsumerOptions(
        concurrency=4, drain_seconds=0.0, poll_seconds=0.001, batching_seconds=0.0, commit_interval_seconds=0.0
    )
    with planned(plan, one_at_a_time=one_at_a_time) as (harness, executor):
        for file_id in range(1, FILES + 1):
            harness.broker.append(CREATE, file_id % 2, request(file_id), [(RUN_HEADER, b"1")])
        processor = FileProcessor(executor, options, worker_id="worker-1")
        source = MemoryRecordSource(harness.broker, CREATE, processor)

        def lose(partition: int) -> None:
            source.lose([partition])
            source.assign([partition])

        executor.lose = lose
        source.assign([0, 1])
        with running(processor, lambda _listener: source):
            wait_until(lambda: [harness.broker.committed(part)[0] for part in (0, 1)] == [3, 3], f"{executor.plan}")
    assert executor.violations == []


@often
@given(plan=plans)
def test_a_share_group_member_accepts_each_record_once_for_any_plan_of_interruptions(
    plan: dict[tuple[int, int], str],
) -> None:
    with planned(plan, one_at_a_time=False) as (harness, executor):
        for file_id in range(1, FILES + 1):
            harness.broker.append(CREATE, file_id % 2, request(file_id), [(RUN_HEADER, b"1")])
        group = MemoryShareGroup(harness.broker, CREATE, delivery_limit=1000)
        source = MemoryShareSource(group, batch_records=3)
        clock = ManualClock()
        executor.lose = lambda _partition: clock.advance(3600)  # as if the process was paused for an hour
        processor = ShareProcessor(
            executor, ShareOptions(drain_seconds=0.0, poll_seconds=0.001, wait_seconds=0.001), clock=clock
        )
        with running(processor, lambda: source):
            wait_until(lambda: len(group.accepted) == FILES, f"{group.deliveries} {executor.plan}")
    assert executor.violations == []
