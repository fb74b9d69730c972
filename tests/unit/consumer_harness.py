"""A file processor on in-memory adapters that runs step by step, on the test's thread."""

import queue
from collections.abc import Callable, Sequence
from typing import Any

from filemill.adapters.memory.broker import MemoryBroker, RecordedCommit
from filemill.adapters.memory.record_source import MemoryRecordSource
from filemill.domain.records import Record
from filemill.domain.retry import RetryPolicy
from filemill_workers.file_processor.consumer import ConsumerOptions, FileProcessor
from filemill_workers.file_processor.executor import Executor, ExecutorStatus, FinishedRecord
from tests.unit.clocks import ManualClock
from tests.unit.executor_harness import CREATE, request

# No waiting and a commit in each step.
OPTIONS = ConsumerOptions(
    concurrency=10,
    drain_seconds=0.0,
    poll_seconds=0.0,
    batching_seconds=0.0,
    commit_interval_seconds=0.0,
    drain_step_seconds=0.001,
    rejoin_policy=RetryPolicy(base_seconds=0.001, cap_seconds=0.002),
)


class ManualExecutor(Executor):
    """Processes nothing: the test says which records finish."""

    def __init__(self) -> None:
        self.finished = queue.SimpleQueue()
        self.started: list[tuple[int, int, int]] = []  # partition, epoch, offset
        self.values: dict[tuple[int, int, int], bytes | None] = {}  # of the started records
        self.working: dict[tuple[int, int], set[int]] = {}
        self.abandoned: list[tuple[dict[int, int], float | None]] = []
        self.confirmations = 0  # of the membership
        self.on_drain: Callable[[], None] = lambda: None  # called in each step of a drain

    def confirm_membership(self) -> None:
        self.confirmations += 1

    def start(self, records: Sequence[Record], epochs: dict[int, int]) -> None:
        for record in records:
            epoch = epochs[record.partition]
            self.started.append((record.partition, epoch, record.offset))
            self.values[self.started[-1]] = record.value
            self.working.setdefault((record.partition, epoch), set()).add(record.offset)

    def abandon(self, epochs: dict[int, int], idle_longer_than: float | None = None) -> None:
        self.abandoned.append((dict(epochs), idle_longer_than))
        if idle_longer_than is None:
            for epoch in epochs.items():
                self.working.pop(epoch, None)

    def in_progress(self, epochs: dict[int, int]) -> int:
        self.on_drain()
        return sum(len(self.working.get(epoch, ())) for epoch in epochs.items())

    def status(self) -> ExecutorStatus:
        return ExecutorStatus()

    def finish(self, partition: int, *offsets: int, epoch: int | None = None) -> None:
        """Finish these records, in the latest epoch in which they were started."""
        for offset in offsets:
            number = epoch or max(e for p, e, o in self.started if (p, o) == (partition, offset))
            self.working.get((partition, number), set()).discard(offset)
            self.finished.put(FinishedRecord(partition, number, offset))


class RecordingSource(MemoryRecordSource):
    """Records the pauses and resumes. The next `read` returns `injected` records too, whatever is assigned."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.calls: list[tuple[str, list[int]]] = []
        self.injected: list[Record] = []

    def read(self, limit: int, seconds: float) -> list[Record]:
        injected, self.injected = self.injected, []
        return [*super().read(limit, seconds), *injected]

    def pause(self, partitions: Sequence[int]) -> None:
        self.calls.append(("pause", sorted(partitions)))
        super().pause(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        self.calls.append(("resume", sorted(partitions)))
        super().resume(partitions)


class ConsumerHarness:
    """A file processor on a topic of three partitions."""

    def __init__(
        self,
        options: ConsumerOptions = OPTIONS,
        *,
        name: str = "worker-1",
        broker: MemoryBroker | None = None,
        source: type[RecordingSource] = RecordingSource,
    ) -> None:
        self.broker = broker or MemoryBroker({CREATE: 3})
        self.executor = ManualExecutor()
        self.clock = ManualClock()
        self.backpressure: str | None = None
        self.processor = FileProcessor(
            self.executor,
            options,
            worker_id=name,
            backpressure_reason=lambda: self.backpressure,
            clock=self.clock,
        )
        self.source = source(self.broker, CREATE, self.processor)

    def produce(self, count: int, partition: int = 0) -> None:
        for _ in range(count):
            self.broker.append(CREATE, partition, request(1))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.processor.step(self.source)

    def rejoin(self) -> None:
        """Leave the group and join it again, as `run` does after MemberExpelled. Nothing is assigned then."""
        self.processor.on_lost(list(range(3)))
        self.processor.leave(self.source)
        self.source = type(self.source)(self.broker, CREATE, self.processor)

    def pause_process(self) -> None:
        """Let so much time pass that the membership is uncertain, as when the process was paused."""
        self.clock.advance(OPTIONS.membership_ttl_seconds + 1)

    @property
    def started(self) -> list[tuple[int, int]]:
        """Partition and offset of the started records."""
        return [(partition, offset) for partition, _, offset in self.executor.started]

    def offsets(self, partition: int = 0) -> list[int]:
        """The committed offsets of a partition, in order."""
        return [each.commit.offset for each in self.broker.commits if each.partition == partition]

    def last_commit(self, partition: int = 0) -> RecordedCommit:
        return [each for each in self.broker.commits if each.partition == partition][-1]
