"""What happened, record by record, as the topics tell it: requests, executions, assignments, with their moments.

`verify` asks how things stand; this is for who asks how they came about: the audit of commits, and the lab's measures.
Moments are seconds since the epoch, of the records' timestamps: with `message.timestamp.type=LogAppendTime` they are
all of one clock, the broker's, as are those of the commits; otherwise each is its producer's.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from filemill.adapters.kafka_admin import KafkaAdmin
from filemill.adapters.kafka_reader import read_topic
from filemill.messages import RUN, FileCreated, InvalidMessage, dead_letter_place, decode, file_id_in, number_header
from filemill.offsets import CommitSeen, ResetSeen, topic_of
from filemill.ports import Record
from filemill.settings import Settings
from filemill.telemetry import Kind, WorkerEvent, decode_event

NEVER = float("inf")


class Place(NamedTuple):
    """A record of `file.create`. `generation` counts the topics that have had the name, from 0."""

    generation: int
    partition: int
    offset: int


class Request(msgspec.Struct, frozen=True):
    """A record of `file.create`, and when it came to the topic. `file_id` None: unreadable."""

    partition: int
    offset: int
    file_id: int | None
    run: int
    at: float


class Execution(msgspec.Struct, frozen=True):
    """A result that one of our workers reported for a record of `file.create`.

    By the worker's own clock it was started at `started_at`, and its announcement made at `made_at`.
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
    made_at: datetime | None = None


class Ownership(msgspec.Struct, frozen=True, order=True):
    """A worker said that a partition became its own, in one of its epochs; `until` when it said that it gave it up.

    `at` and `until` are when that came to the topic, `said_at` when the worker said it by its own clock.
    """

    at: float
    worker: str
    epoch: int
    partition: int
    until: float = NEVER
    said_at: float = 0.0


class Heard(msgspec.Struct, frozen=True):
    """An event of `worker.events`, and when it came to the topic."""

    at: float
    event: WorkerEvent


class History(msgspec.Struct):
    """All of it, each list in the order of the moments."""

    requests: list[Request] = []
    executions: list[Execution] = []
    events: list[Heard] = []
    # Places on `file.create` of dead letters, and of runs that were let go because they were cancelled.
    ended_otherwise: dict[Place, float] = {}
    # When `file.create` was deleted and created again. The requests above are those of the present topic.
    recreations: list[float] = []
    # Their ids, and that of the first one, in the same order. Empty: not known.
    topic_ids: list[str] = []
    # When the present topic of results began, where it is not the first: a result from before is not known.
    results_since: float = 0.0
    # Records that are known to have been removed from the topic, and when.
    removed: dict[Place, float] = {}
    # Moves of the group's offsets by people, which are on record in Postgres.
    resets: list[ResetSeen] = []
    # Of the values and headers of all that was read, by topic.
    payload_bytes: dict[str, int] = {}

    def generation(self, at: float) -> int:
        """The number of the topic that had the name `file.create` at a moment."""
        return bisect_right(self.recreations, at)

    def generation_of(self, commit: CommitSeen) -> int:
        """The number of the topic that a commit is of: by the id that it names, else by its moment.

        A worker that has not heard that the topic was recreated commits offsets of the former one for a while.
        """
        topic_id = topic_of(commit.metadata)
        return self.topic_ids.index(topic_id) if topic_id in self.topic_ids else self.generation(commit.at)

    def place_of(self, request: Request) -> Place:
        """Where a request stands."""
        return Place(len(self.recreations), request.partition, request.offset)

    def executed_places(self) -> list[Place]:
        """The place of each execution's record.

        A result can come after the topic of its request was recreated: the request that stands there is another's.
        """
        present = len(self.recreations)
        if not present:
            return [Place(0, one.partition, one.offset) for one in self.executions]
        asked = {(one.partition, one.offset): one.file_id for one in self.requests}
        places = []
        for one in self.executions:
            generation = self.generation(one.at)
            file_id = asked.get((one.partition, one.offset))
            if file_id is not None:
                generation = present if file_id == one.file_id else min(generation, present - 1)
            places.append(Place(generation, one.partition, one.offset))
        return places

    def finished(self) -> dict[Place, float]:
        """When each record had its first result, whichever it was; records without one are absent.

        One that a reset on record passed over is done with: `verify` sees to it that its file has ended, too.
        """
        moments = dict(self.ended_otherwise)
        for reset in self.resets:
            for offset in range(reset.old, reset.new):
                place = Place(self.generation(reset.at), reset.partition, offset)
                moments[place] = min(reset.at, moments.get(place, NEVER))
        for execution, place in zip(self.executions, self.executed_places(), strict=True):
            moments[place] = min(execution.at, moments.get(place, NEVER))
        return moments

    def ownerships(self) -> list[Ownership]:
        """Who owned what, from when, as the workers said; a killed worker never says until when."""
        owned: list[Ownership] = []
        current: dict[tuple[str, int], int] = {}
        for heard in self.events:
            said = heard.event
            if said.kind is Kind.ASSIGNED and said.epoch is not None:
                for partition in said.partitions:
                    current[said.worker_id, partition] = len(owned)
                    moment = said.timestamp.timestamp()
                    owned.append(Ownership(heard.at, said.worker_id, said.epoch, partition, said_at=moment))
            elif said.kind is Kind.REVOKED:
                # Not `lost`: the broker may count a commit that was under way before its sender heard of the loss.
                for partition in said.partitions:
                    index = current.pop((said.worker_id, partition), None)
                    if index is not None:
                        owned[index] = msgspec.structs.replace(owned[index], until=heard.at)
        return sorted(owned)


def read_history(
    settings: Settings, admin: KafkaAdmin, since: datetime | None = None, recreations: Sequence[float] = ()
) -> History:
    """Read the topics from their beginnings to their present ends. Raises retry.Unavailable.

    With `since`, of requests and results only what came from then on; events tell who owned what at that moment.
    `recreations`: when `file.create` was deleted and created again, ascending.
    """
    history = History(recreations=list(recreations))

    def records(topic: str, since: datetime | None) -> Iterator[Record]:
        for record in _records(settings, admin, topic, since):
            history.payload_bytes[topic] = history.payload_bytes.get(topic, 0) + _size(record)
            yield record

    for record in records(settings.topic_created, since):
        execution = execution_in(record)
        if execution is not None:
            history.executions.append(execution)
    for record in records(settings.topic_dead_letters, since):
        _note_dead_letter(record, history)
    for record in records(settings.topic_worker_events, None):
        _note_event(record, history)
    for record in records(settings.topic_create, since):
        run = number_header(record.headers, RUN) or 1
        request = Request(record.partition, record.offset, file_id_in(record.value), run, _moment(record))
        history.requests.append(request)
    history.requests.sort(key=lambda request: request.at)
    history.executions = distinct(sorted(history.executions, key=lambda execution: execution.at))
    history.events.sort(key=lambda heard: heard.at)
    return history


def distinct(executions: Sequence[Execution]) -> list[Execution]:
    """Each once. A worker that the broker owes an answer announces again, in the same words, what it has made."""
    first: dict[Execution, Execution] = {}
    for execution in executions:
        first.setdefault(msgspec.structs.replace(execution, at=0.0), execution)
    return list(first.values())


def execution_in(record: Record) -> Execution | None:
    """What a record of `file.created` tells; None for what cannot be read, and for a foreign service's."""
    try:
        record.refuse_unreadable()
        event = decode(record.value, FileCreated)
    except InvalidMessage:
        return None
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
        at=_moment(record),
        made_at=event.timestamp,
    )


def _note_dead_letter(record: Record, history: History) -> None:
    place = dead_letter_place(record.headers)
    if place is not None:
        _note_end(*place, _moment(record), history)


def _note_event(record: Record, history: History) -> None:
    try:
        record.refuse_unreadable()
        event = decode_event(record.value)
    except InvalidMessage:
        return
    history.events.append(Heard(_moment(record), event))
    if event.kind is Kind.CANCELLED and event.partition is not None and event.offset is not None:
        _note_end(event.partition, event.offset, _moment(record), history)


def _note_end(partition: int, offset: int, at: float, history: History) -> None:
    place = Place(history.generation(at), partition, offset)
    history.ended_otherwise[place] = min(at, history.ended_otherwise.get(place, NEVER))


def _records(settings: Settings, admin: KafkaAdmin, topic: str, since: datetime | None = None) -> Iterator[Record]:
    begins = admin.offsets_at(topic, int(1000 * since.timestamp())) if since is not None else {}
    places = {(topic, partition): offset for partition, offset in begins.items()}
    return read_topic(settings, topic, admin.offsets(None, topic), "audit", places)


def _size(record: Record) -> int:
    return len(record.value or b"") + sum(len(name) + len(value or b"") for name, value in record.headers)


def _moment(record: Record) -> float:
    return record.timestamp_ms / 1000
