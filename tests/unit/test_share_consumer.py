"""The share processor: batches, acknowledgements, releases, backpressure and pauses, step by step."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from filemill.adapters.memory.broker import MemoryBroker
from filemill.adapters.memory.publisher import MemoryPublisher
from filemill.adapters.memory.share_source import MemoryShareGroup, MemoryShareSource
from filemill.domain.messages import header
from filemill.domain.retry import RetryPolicy
from filemill.domain.worker_events import HEARTBEAT_SECONDS
from filemill.errors import DeadLetterCode, MemberExpelled, Unavailable
from filemill_workers.file_processor.membership import QUIET
from filemill_workers.file_processor.reporter import Reporter
from filemill_workers.file_processor.share_consumer import ShareOptions, ShareProcessor
from tests.unit.clocks import ManualClock
from tests.unit.consumer_harness import ManualExecutor
from tests.unit.executor_harness import CREATE, TOPICS, request, running_executor, wait_until

BATCH_SECONDS = 10.0
# No waiting and a commit in each step.
OPTIONS = ShareOptions(
    drain_seconds=0.0,
    poll_seconds=0.0,
    wait_seconds=0.001,
    commit_interval_seconds=0.0,
    rejoin_policy=RetryPolicy(base_seconds=0.001, cap_seconds=0.002),
)


class ShareHarness:
    """A share processor on a topic of two partitions, and its share group."""

    def __init__(self, options: ShareOptions = OPTIONS, *, batch_records: int = 3, delivery_limit: int = 5) -> None:
        self.broker = MemoryBroker({CREATE: 2, TOPICS.worker_events: 1})
        self.group = MemoryShareGroup(self.broker, CREATE, delivery_limit)
        self.source = MemoryShareSource(self.group, BATCH_SECONDS, batch_records)
        self.executor = ManualExecutor()
        self.clock = ManualClock()
        self.backpressure: str | None = None
        self.probes = 0
        self.processor = ShareProcessor(
            self.executor,
            options,
            reporter=Reporter(MemoryPublisher(self.broker), TOPICS.worker_events, "worker-1", "share", 60),
            backpressure_reason=lambda: self.backpressure,
            probe=self._probe,
            clock=self.clock,
        )

    def _probe(self) -> None:
        self.probes += 1

    def produce(self, count: int, partition: int = 0) -> None:
        for _ in range(count):
            self.broker.append(CREATE, partition, request(1))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.processor.step(self.source)

    def finish(self, *keys: tuple[int, int]) -> None:
        for partition, offset in keys:
            self.executor.finish(partition, offset)

    @property
    def started(self) -> list[tuple[int, int]]:
        """Partition and offset of the started records."""
        return [(partition, offset) for partition, _, offset in self.executor.started]

    def events(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(each.value or b"null") for each in self.broker.records(TOPICS.worker_events)]


@pytest.fixture
def harness() -> ShareHarness:
    return ShareHarness()


def with_options(**options: Any) -> ShareHarness:
    return ShareHarness(msgspec.structs.replace(OPTIONS, **options))


# --- batches and acknowledgements


def test_all_records_of_a_batch_start_together(harness: ShareHarness) -> None:
    harness.produce(2, 0)
    harness.produce(2, 1)
    harness.step()
    assert harness.started == [(0, 0), (0, 1), (1, 0)]
    assert {epoch for _, epoch, _ in harness.executor.started} == {1}


def test_the_next_batch_is_read_when_all_records_of_the_last_one_are_finished(harness: ShareHarness) -> None:
    harness.produce(5)
    harness.step()
    harness.finish((0, 2), (0, 0))
    harness.step(5)
    assert harness.started == [(0, 0), (0, 1), (0, 2)], "a slow record delays the next batch"
    harness.finish((0, 1))
    harness.step(2)
    assert harness.started[3:] == [(0, 3), (0, 4)]


def test_finished_records_are_acknowledged_and_unfinished_ones_are_not(harness: ShareHarness) -> None:
    harness.produce(3)
    harness.step()
    harness.finish((0, 1))
    harness.step()
    assert harness.group.accepted == {(0, 1)}
    harness.finish((0, 0), (0, 2))
    harness.step()
    assert harness.group.accepted == {(0, 0), (0, 1), (0, 2)}


def test_acknowledgements_are_sent_once_per_interval() -> None:
    harness = with_options(commit_interval_seconds=2.0)
    harness.produce(3)
    harness.step()
    harness.finish((0, 0))
    harness.step()
    assert harness.group.accepted == {(0, 0)}
    harness.finish((0, 1))
    harness.clock.advance(1.5)
    harness.step(3)
    assert harness.group.accepted == {(0, 0)}
    harness.clock.advance(0.5)
    harness.step()
    assert harness.group.accepted == {(0, 0), (0, 1)}


def test_a_record_that_finishes_after_its_batch_was_released_is_ignored(harness: ShareHarness) -> None:
    harness.produce(1)
    harness.step()
    harness.clock.advance(OPTIONS.membership_ttl_seconds + 1)
    harness.step()
    harness.executor.finish(0, 0, epoch=1)
    harness.step()
    assert harness.group.accepted == set()
    assert harness.group.deliveries[0, 0] == 2, "it is delivered again"


# --- releases


def test_a_batch_that_takes_too_long_is_released(harness: ShareHarness) -> None:
    harness.produce(2)
    harness.step()
    harness.finish((0, 0))
    for _ in range(6):
        harness.clock.advance(2.0)  # shorter than a pause of the process
        harness.step()
    assert harness.group.accepted == {(0, 0)}
    assert harness.executor.abandoned[-1] == ({0: 1}, None)
    other = MemoryShareSource(harness.group)
    harness.source.commit_async()
    assert [record.offset for record in other.read(0)] == [1]


def test_a_batch_is_kept_until_its_time_is_over(harness: ShareHarness) -> None:
    harness.produce(1)
    harness.step()
    for _ in range(5):
        harness.clock.advance(2.0)
        harness.step()
    assert harness.executor.abandoned == []
    harness.finish((0, 0))
    harness.step()
    assert harness.group.accepted == {(0, 0)}


def test_after_a_pause_of_the_process_the_batch_is_released_before_the_membership_is_confirmed() -> None:
    harness = ShareHarness()
    harness.produce(2)
    harness.step()
    confirmations = harness.executor.confirmations
    abandoned_at: list[int] = []
    abandon = harness.executor.abandon

    def observe(epochs: dict[int, int], idle_longer_than: float | None = None) -> None:
        abandoned_at.append(harness.executor.confirmations)
        abandon(epochs, idle_longer_than)

    harness.executor.abandon = observe  # type: ignore[method-assign]
    harness.clock.advance(OPTIONS.membership_ttl_seconds + 1)
    harness.step()
    assert abandoned_at == [confirmations], "nothing of the old batch may begin an effect"
    assert harness.executor.confirmations > confirmations
    assert [deliveries for _, deliveries in sorted(harness.group.deliveries.items())] == [2, 2], "both are read again"


def test_a_record_that_finished_just_before_a_release_is_accepted(harness: ShareHarness) -> None:
    harness.produce(2)
    harness.step()
    harness.finish((0, 0))
    harness.clock.advance(OPTIONS.membership_ttl_seconds + 1)
    harness.step()
    assert harness.group.accepted == {(0, 0)}
    assert harness.group.deliveries == {(0, 0): 1, (0, 1): 2}


# --- backpressure


def test_under_backpressure_no_batch_is_read_and_the_server_is_probed(harness: ShareHarness) -> None:
    harness.backpressure = "S3: unreachable"
    harness.produce(2)
    harness.step(3)
    assert harness.started == []
    assert harness.group.deliveries == {}, "no delivery is used up"
    assert harness.probes == 3
    harness.backpressure = None
    harness.step()
    assert harness.started == [(0, 0), (0, 1)]


def test_a_quiet_worker_reads_and_probes_nothing(harness: ShareHarness) -> None:
    harness.backpressure = QUIET
    harness.produce(2)
    harness.step(3)
    assert harness.started == []
    assert harness.probes == 0


def test_backpressure_does_not_stop_the_current_batch(harness: ShareHarness) -> None:
    harness.produce(2)
    harness.step()
    harness.backpressure = QUIET
    harness.finish((0, 0), (0, 1))
    harness.step()
    assert harness.group.accepted == {(0, 0), (0, 1)}


# --- stopping and memberships


def run_to_end(harness: ShareHarness, sources: Sequence[MemoryShareSource]) -> None:
    """Run the processor on these memberships, one after the other, until it is stopped."""
    rest = iter(sources)
    thread = threading.Thread(target=harness.processor.run, args=(lambda: next(rest),), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


class StoppingSource(MemoryShareSource):
    """Stops the processor when its first batch was read."""

    processor: ShareProcessor

    def read(self, seconds: float) -> list[Any]:
        records = super().read(seconds)
        self.processor.stop()
        return records


def stopping_source(harness: ShareHarness) -> StoppingSource:
    source = StoppingSource(harness.group, BATCH_SECONDS)
    source.processor = harness.processor
    return source


def test_stopping_waits_for_records_in_progress_and_releases_the_others() -> None:
    harness = with_options(drain_seconds=0.75)
    harness.produce(2)
    source = stopping_source(harness)

    def drain() -> None:
        if not harness.executor.working.get((0, 1)):
            return
        harness.clock.advance(0.25)
        if harness.executor.working[0, 1] == {0, 1}:
            harness.finish((0, 0))

    harness.executor.on_drain = drain
    run_to_end(harness, [source])
    assert harness.group.accepted == {(0, 0)}
    assert harness.executor.abandoned[0] == ({0: 1}, 0.75), "records that would be idle for longer are abandoned first"
    assert source.closed
    assert harness.group.owner((0, 1)) is None, "another member can get it"
    assert [event["kind"] for event in harness.events()][-1] == "stopped"


def test_an_expelled_member_joins_again_and_processes_the_records_again() -> None:
    harness = ShareHarness()
    harness.produce(2)
    expelled = MemoryShareSource(harness.group)
    commits = iter([True])

    def expel() -> None:
        if next(commits, False):
            raise MemberExpelled("fenced")

    expelled.commit_async = expel  # type: ignore[method-assign]
    run_to_end(harness, [expelled, stopping_source(harness)])
    assert expelled.closed
    assert harness.started == [(0, 0), (0, 1)]


def test_a_worker_that_cannot_join_ends_with_the_reason(harness: ShareHarness) -> None:
    def join() -> MemoryShareSource:
        raise Unavailable("the share group is not authorized")

    with pytest.raises(Unavailable, match="not authorized"):
        harness.processor.run(join)
    assert [event["kind"] for event in harness.events()] == ["started", "stopped"]


# --- heartbeats


def test_a_heartbeat_describes_the_batch(harness: ShareHarness) -> None:
    harness.produce(2)
    harness.step()
    harness.clock.advance(HEARTBEAT_SECONDS)
    harness.step()
    heartbeat = harness.events()[-1]
    assert (heartbeat["kind"], heartbeat["epoch"]) == ("heartbeat", 1)
    vitals = heartbeat["vitals"]
    assert (vitals["inFlight"], vitals["paused"]) == (2, True)
    assert vitals["headroomSeconds"] == BATCH_SECONDS - HEARTBEAT_SECONDS


@pytest.mark.parametrize(
    ("reason", "expected"), [(QUIET, {"quiet": True}), ("S3: unreachable", {"breaker": "S3: unreachable"})]
)
def test_a_heartbeat_contains_the_backpressure_reason(
    harness: ShareHarness, reason: str, expected: dict[str, object]
) -> None:
    harness.backpressure = reason
    harness.step()
    vitals = harness.events()[-1]["vitals"]
    assert {name: vitals[name] for name in ("quiet", "breaker") if name in vitals} == expected


# --- with the executor


@pytest.fixture
def running_worker() -> Iterator[tuple[MemoryShareGroup, Any]]:
    """A share processor with a real executor, on a thread of its own."""
    with running_executor() as harness:
        group = MemoryShareGroup(harness.broker, CREATE, delivery_limit=5)
        processor = ShareProcessor(harness.executor, OPTIONS)
        thread = threading.Thread(target=processor.run, args=(lambda: MemoryShareSource(group),), daemon=True)
        thread.start()
        yield group, harness
        processor.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_all_records_are_processed_and_acknowledged(running_worker: tuple[MemoryShareGroup, Any]) -> None:
    group, harness = running_worker
    for number in range(60):
        harness.broker.append(CREATE, number % 3, request(number + 1) if number % 20 else b"not json")
    wait_until(lambda: len(group.accepted) == 60)
    assert len(harness.results()) == 57
    assert len(harness.broker.records(TOPICS.dead_letters)) == 3


def test_a_record_is_dead_lettered_one_delivery_before_the_limit(running_worker: tuple[MemoryShareGroup, Any]) -> None:
    group, harness = running_worker
    with harness.broker.changed:
        harness.broker.append(CREATE, 0, request(1))
        group.deliveries[0, 0] = 3
    wait_until(lambda: (0, 0) in group.accepted)
    (letter,) = harness.broker.records(TOPICS.dead_letters)
    assert header(letter.headers, "filemill-code") == DeadLetterCode.DELIVERY_LIMIT
    assert harness.results() == {1: "failed"}
    assert harness.store.puts == []
