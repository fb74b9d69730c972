"""A file processor on fakes whose thread is the test's: it moves turn by turn, and the test says what is finished."""

import queue
from collections.abc import Sequence

from filemill.adapters.memory.broker import MemoryBroker, RecordedCommit
from filemill.adapters.memory.record_source import MemoryRecordSource
from filemill.domain.records import Record
from filemill_workers.file_processor.consumer import FileProcessor
from filemill_workers.file_processor.executor import Executor, FinishedRecord
from tests.unit.executor_harness import CREATE, request


class HandWorkshop(Executor):
    """Does nothing by itself: the test says what is finished."""

    def __init__(self) -> None:
        self.finished = queue.SimpleQueue()
        self.begun: list[tuple[int, int, int]] = []  # partition, epoch, offset
        self.values: dict[tuple[int, int, int], bytes | None] = {}  # of the records begun
        self.working: dict[tuple[int, int], set[int]] = {}
        self.abandoned: list[tuple[dict[int, int], float | None]] = []
        self.trusts = 0

    def confirm_membership(self) -> None:
        self.trusts += 1

    def start(self, records: Sequence[Record], epochs: dict[int, int]) -> None:
        for record in records:
            epoch = epochs[record.partition]
            self.begun.append((record.partition, epoch, record.offset))
            self.values[self.begun[-1]] = record.value
            self.working.setdefault((record.partition, epoch), set()).add(record.offset)

    def abandon(self, epochs: dict[int, int], idle_longer_than: float | None = None) -> None:
        self.abandoned.append((dict(epochs), idle_longer_than))
        if idle_longer_than is None:
            for epoch in epochs.items():
                self.working.pop(epoch, None)

    def in_progress(self, epochs: dict[int, int]) -> int:
        return sum(len(self.working.get(epoch, ())) for epoch in epochs.items())

    def vitals(self) -> tuple[float, int]:
        return 0.0, 0

    def finish(self, partition: int, *offsets: int, epoch: int | None = None) -> None:
        """Let these be done, in the latest epoch in which they were begun."""
        for offset in offsets:
            number = epoch or max(e for p, e, o in self.begun if (p, o) == (partition, offset))
            self.working.get((partition, number), set()).discard(offset)
            self.finished.put(FinishedRecord(partition, number, offset))


class SpySource(MemoryRecordSource):
    """Counts pauses and resumptions."""

    calls: list[tuple[str, list[int]]]

    def pause(self, partitions: Sequence[int]) -> None:
        self.calls.append(("pause", sorted(partitions)))
        super().pause(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        self.calls.append(("resume", sorted(partitions)))
        super().resume(partitions)


class Scene:
    """A processor on a topic of three partitions, driven by hand."""

    def __init__(
        self,
        concurrency: int = 10,
        drain_seconds: float = 0.0,
        *,
        name: str = "worker-1",
        broker: MemoryBroker | None = None,
    ) -> None:
        self.broker = broker or MemoryBroker({CREATE: 3})
        self.workshop = HandWorkshop()
        self.held: str | None = None
        self.processor = FileProcessor(
            self.workshop,
            worker_id=name,
            concurrency=concurrency,
            drain_seconds=drain_seconds,
            backpressure_reason=lambda: self.held,
        )
        self.source = SpySource(self.broker, CREATE, self.processor)
        self.source.calls = []
        self.processor._source = self.source

    def produce(self, count: int, partition: int = 0) -> None:
        for _ in range(count):
            self.broker.append(CREATE, partition, request(1))

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.processor.step(self.source)

    def join_again(self) -> None:
        """What `run` does after MemberExpelled. Nothing is assigned then."""
        if self.processor._epochs:
            self.processor.on_lost(sorted(self.processor._epochs))
        self.source.close()
        self.source = SpySource(self.broker, CREATE, self.processor)
        self.source.calls = []
        self.processor._source = self.source
        self.processor._committing = False

    @property
    def begun(self) -> list[tuple[int, int]]:
        """Partition and offset of what was begun."""
        return [(partition, offset) for partition, _, offset in self.workshop.begun]

    def offsets(self, partition: int = 0) -> list[int]:
        """The offsets committed for a partition, in order."""
        return [each.commit.offset for each in self.broker.commits if each.partition == partition]

    def last(self, partition: int = 0) -> RecordedCommit:
        return [each for each in self.broker.commits if each.partition == partition][-1]
