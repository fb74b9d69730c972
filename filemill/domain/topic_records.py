"""Facts from records on the topics, for verification. `at` is a record's timestamp in seconds since the epoch."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from filemill.domain.messages import FileCreated
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.worker_events import EventKind, WorkerEvent


class RequestRecord(NamedTuple):
    """A record on the topic of a queue. `file_id` is None if the value is unreadable."""

    file_id: int | None
    run: int | None
    sequence: int | None
    partition: int
    offset: int
    at: float = 0.0
    queue: str = DEFAULT_QUEUE


class DeadLetterRecord(NamedTuple):
    """A record on the dead letter topic. `partition` and `offset` are those of the record on the topic of `queue`."""

    file_id: int | None
    partition: int | None
    offset: int | None
    at: float = 0.0
    queue: str = DEFAULT_QUEUE


class CancelledRecord(NamedTuple):
    """The position, on the topic of a queue, of a record that a worker skipped because its run was cancelled."""

    partition: int
    offset: int
    at: float = 0.0
    queue: str = DEFAULT_QUEUE


class ResultRecord(NamedTuple):
    """A readable record on `file.created`, with its own partition and offset."""

    partition: int
    offset: int
    at: float
    event: FileCreated


class StoredEvent(msgspec.Struct, frozen=True):
    """A readable record on `worker.events`."""

    at: float
    event: WorkerEvent

    @property
    def cancelled(self) -> CancelledRecord | None:
        """The record that the worker skipped, for an event of this kind."""
        event = self.event
        if event.kind is not EventKind.CANCELLED or event.partition is None or event.offset is None:
            return None
        return CancelledRecord(event.partition, event.offset, self.at, event.queue)


class IndexedResult(NamedTuple):
    """The outcome that a result reports, with the result's own position. A `run` of None applies to any run."""

    file_id: int
    run: int | None
    status: str
    partition: int
    offset: int


class TopicFacts:
    """Results and dead letters of a range of files."""

    def __init__(self, results: Iterable[IndexedResult], dead_letters: Iterable[int]) -> None:
        """`results` in the order in which they were read; `dead_letters` are file ids."""
        self.dead_letters = frozenset(dead_letters)
        self._results: dict[int, list[IndexedResult]] = {}
        for result in results:
            self._results.setdefault(result.file_id, []).append(result)

    def results(self, file_id: int, run: int) -> list[IndexedResult]:
        """The results of a run in the order in which they were read, then those without a run."""
        known = self._results.get(file_id, [])
        return [one for one in known if one.run == run] + [one for one in known if one.run is None]
