"""What happened, record by record: requests, executions and assignments, each with its moment.

`verify` checks the state at one moment. This is for the audit of commits and the lab's measures, which need each step.
Moments are seconds since the epoch, from the records' timestamps. With `message.timestamp.type=LogAppendTime` all of
them, and those of the commits, are by the broker's clock; otherwise each is by its producer's clock.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.config.settings import Settings
from filemill.domain.offsets import RecordedReset, StoredCommit, topic_id_in
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.topic_records import RequestRecord, ResultRecord, StoredEvent
from filemill.domain.worker_events import EventKind
from filemill.verification.topics import TopicScanner

NEVER = float("inf")
# A worker that wakes after its session reports an assignment that is over, and in the next moment its loss.
OUTDATED_SECONDS = 1.0


class RecordPosition(NamedTuple):
    """A record of `file.create`. `generation` counts the topics that have had the name, from 0."""

    generation: int
    partition: int
    offset: int


class Execution(msgspec.Struct, frozen=True):
    """A result that one of our workers reported for a record of `file.create`.

    `partition` and `offset` are those of the request. `at` is when the result reached the topic. The execution began at
    `started_at`, and its result was published at `published_at`, both by the worker's clock.
    """

    partition: int
    offset: int
    file_id: int
    run: int | None
    worker: str
    status: str
    attempt: int
    started_at: datetime | None
    upload_ms: float | None
    at: float
    published_at: datetime | None = None
    queue: str = DEFAULT_QUEUE


class OwnershipPeriod(msgspec.Struct, frozen=True, order=True):
    """A worker reported that it was assigned a partition, in one of its epochs, and revoked at `until`.

    `at` and `until` are when these events reached the topic; `reported_at` is the assignment by the worker's clock.
    """

    at: float
    worker: str
    epoch: int
    partition: int
    until: float = NEVER
    reported_at: float = 0.0


class TopicHistory(msgspec.Struct):
    """The contents of the topics; each list is in the order of the moments."""

    # The queue of the requests, executions and assignments.
    queue: str = DEFAULT_QUEUE
    requests: list[RequestRecord] = []
    executions: list[Execution] = []
    events: list[StoredEvent] = []
    # When records were dead-lettered, or skipped because their run was cancelled.
    ended_without_result: dict[RecordPosition, float] = {}
    # When `file.create` was deleted and created again. `requests` are those of the present topic.
    recreations: list[float] = []
    # The ids of all topics that had the name, in their order. Empty if unknown.
    topic_ids: list[str] = []
    # When the present topic of results was created, unless it is the first: earlier results are unknown.
    results_since: float = 0.0
    # When records were removed from the topic, as far as it is known.
    removed: dict[RecordPosition, float] = {}
    # Offset resets by operators, from the audit log in Postgres.
    resets: list[RecordedReset] = []
    # Bytes of values and headers that were read, by topic.
    payload_bytes: dict[str, int] = {}

    def generation(self, at: float) -> int:
        """The number of the topic that had the name `file.create` at a moment."""
        return bisect_right(self.recreations, at)

    def generation_of(self, commit: StoredCommit) -> int:
        """The number of the topic that a commit belongs to: by the id that it names, else by its moment.

        A worker that has not noticed a recreation commits offsets of the former topic for a while.
        """
        topic_id = topic_id_in(commit.metadata)
        return self.topic_ids.index(topic_id) if topic_id in self.topic_ids else self.generation(commit.at)

    def position_of(self, request: RequestRecord) -> RecordPosition:
        """The position of a request."""
        return RecordPosition(len(self.recreations), request.partition, request.offset)

    def executed_positions(self) -> list[RecordPosition]:
        """The position of the request of each execution.

        A result may arrive after the topic of its request was recreated. Then another request is at its offset.
        """
        present = len(self.recreations)
        if not present:
            return [RecordPosition(0, one.partition, one.offset) for one in self.executions]
        requested = {(one.partition, one.offset): one.file_id for one in self.requests}
        positions = []
        for one in self.executions:
            generation = self.generation(one.at)
            file_id = requested.get((one.partition, one.offset))
            if file_id is not None:
                generation = present if file_id == one.file_id else min(generation, present - 1)
            positions.append(RecordPosition(generation, one.partition, one.offset))
        return positions

    def finished(self) -> dict[RecordPosition, float]:
        """When each record had its first result of any kind; records without one are absent.

        A record that a recorded offset reset skipped counts as finished: `verify` checks that its file has ended.
        """
        moments = dict(self.ended_without_result)
        for reset in self.resets:
            for offset in range(reset.old, reset.new):
                position = RecordPosition(self.generation(reset.at), reset.partition, offset)
                moments[position] = min(reset.at, moments.get(position, NEVER))
        for execution, position in zip(self.executions, self.executed_positions(), strict=True):
            moments[position] = min(execution.at, moments.get(position, NEVER))
        return moments

    def ownerships(self) -> list[OwnershipPeriod]:
        """The periods in which workers owned partitions, as they reported. A killed worker reports no end."""
        owned: list[OwnershipPeriod] = []
        current: dict[tuple[str, int], int] = {}
        outdated: set[int] = set()
        for stored in (one for one in self.events if one.event.queue == self.queue):
            event = stored.event
            if event.kind is EventKind.ASSIGNED and event.epoch is not None:
                reported_at = event.timestamp.timestamp()
                for partition in event.partitions:
                    current[event.worker_id, partition] = len(owned)
                    period = OwnershipPeriod(
                        stored.at, event.worker_id, event.epoch, partition, reported_at=reported_at
                    )
                    owned.append(period)
            elif event.kind is EventKind.REVOKED:
                # At LOST no period ends: the broker may accept a commit that was sent before the worker learned of it.
                for partition in event.partitions:
                    index = current.pop((event.worker_id, partition), None)
                    if index is not None:
                        owned[index] = msgspec.structs.replace(owned[index], until=stored.at)
            elif event.kind is EventKind.LOST:
                outdated |= _outdated(stored, owned, current)
        return sorted(period for index, period in enumerate(owned) if index not in outdated)


def _outdated(lost: StoredEvent, owned: list[OwnershipPeriod], current: dict[tuple[str, int], int]) -> set[int]:
    """The periods of a worker, by index, that were over when it reported them: another worker owned the partition.

    `current` has the last period of each worker and partition.
    """
    found = set()
    for partition in lost.event.partitions:
        index = current.get((lost.event.worker_id, partition))
        if index is not None and owned[index].at >= lost.at - OUTDATED_SECONDS:
            others = [other for (_, number), other in current.items() if number == partition]
            if any(owned[other].at < owned[index].at for other in others):
                found.add(index)
    return found


def read_history(
    settings: Settings, admin: KafkaAdmin, since: datetime | None = None, recreations: Sequence[float] = ()
) -> TopicHistory:
    """Read the topics to their present ends. Raises Unavailable.

    Requests, results and assignments are those of the queue whose topic is `settings.topic_create`.
    `since` leaves out older requests and results; all worker events are read, for the owners at that moment.
    `recreations`: when `file.create` was deleted and created again, ascending.
    """
    scanner = TopicScanner(settings, admin, "audit", since)
    queue = settings.queue_name
    history = TopicHistory(queue=queue, recreations=list(recreations))
    executions = [
        found for record in scanner.results() if (found := execution_of(record)) is not None and found.queue == queue
    ]
    history.executions = deduplicate(sorted(executions, key=lambda execution: execution.at))
    for dead_letter in scanner.dead_letters():
        if dead_letter.queue == queue and dead_letter.partition is not None and dead_letter.offset is not None:
            _add_end(history, dead_letter.partition, dead_letter.offset, dead_letter.at)
    events = (stored for stored in scanner.worker_events() if stored.event.queue in {queue, DEFAULT_QUEUE})
    history.events = sorted(events, key=lambda event: event.at)
    for event in history.events:
        if (cancelled := event.cancelled) is not None and cancelled.queue == queue:
            _add_end(history, cancelled.partition, cancelled.offset, cancelled.at)
    history.requests = sorted(scanner.requests(queue), key=lambda request: request.at)
    history.payload_bytes = dict(scanner.coverage.payload_bytes)
    return history


def deduplicate(executions: Sequence[Execution]) -> list[Execution]:
    """Each execution once. A worker repeats a result unchanged if the broker did not acknowledge it."""
    first: dict[Execution, Execution] = {}
    for execution in executions:
        first.setdefault(msgspec.structs.replace(execution, at=0.0), execution)
    return list(first.values())


def execution_of(record: ResultRecord) -> Execution | None:
    """The execution that a result reports; None for a result of a foreign service."""
    event = record.event
    if event.partition is None or event.offset is None:
        return None
    return Execution(
        partition=event.partition,
        offset=event.offset,
        file_id=event.file_id,
        run=event.run,
        worker=event.worker_id or "",
        status=event.status,
        attempt=event.attempt or 1,
        started_at=event.started_at,
        upload_ms=event.upload_ms,
        at=record.at,
        published_at=event.timestamp,
        queue=event.queue,
    )


def _add_end(history: TopicHistory, partition: int, offset: int, at: float) -> None:
    position = RecordPosition(history.generation(at), partition, offset)
    history.ended_without_result[position] = min(at, history.ended_without_result.get(position, NEVER))
