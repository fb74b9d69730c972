"""What the topics say: the other half of every comparison that `verify` makes with the rows."""

from collections.abc import Iterator

import msgspec

from filemill.adapters.kafka_admin import KafkaAdmin
from filemill.adapters.kafka_reader import read_topic
from filemill.messages import (
    PUBLISH_NUMBER,
    RUN,
    FileCreated,
    InvalidMessage,
    decode,
    file_id_in,
    number_header,
)
from filemill.ports import Record
from filemill.settings import Settings
from filemill.telemetry import Kind, decode_event

FileRun = tuple[int, int | None]


class Request(msgspec.Struct, frozen=True):
    """A record of `file.create`: whose, and where it stands. `file_run` None: unreadable."""

    file_run: FileRun | None
    number: int | None
    partition: int
    offset: int


class Evidence(msgspec.Struct):
    """All that the topics hold, up to their ends at the beginning of the reading."""

    requests: list[Request] = []
    results: dict[FileRun, set[str]] = {}
    # The latest place on `file.created` of each result, to know whether the sync has read it.
    result_places: dict[FileRun, tuple[int, int]] = {}
    duplicate_results: int = 0
    unreadable_events: int = 0
    # Places (partition, offset) on `file.create` of runs that workers let go because they were cancelled.
    cancelled_places: set[tuple[int, int]] = set()
    dead_letters: set[int] = set()
    dead_letter_count: int = 0
    # Places (partition, offset) on `file.create` that dead letters name as theirs.
    dead_letter_places: set[tuple[int, int]] = set()
    committed: dict[int, int | None] = {}
    partitions: int = 0
    # Topics whose beginning is gone by retention: what they do not say proves nothing.
    truncated: set[str] = set()
    # How far each topic was read, by topic and partition: what lies beyond is not known.
    read_to: dict[tuple[str, int], int] = {}

    def result_of(self, file_id: int, run: int | None) -> tuple[int, int] | None:
        """Where the first result of a run stands on `file.created`; one without a run counts for any."""
        return self.result_places.get((file_id, run)) or self.result_places.get((file_id, None))


def gather(settings: Settings, admin: KafkaAdmin) -> Evidence:
    """Read the topics from their beginnings to their present ends. Raises retry.Unavailable."""
    evidence = Evidence()
    # Committed offsets first: what is committed by now must have its result on the topics that are read after.
    for part in admin.offsets(settings.offsets_group, settings.topic_create):
        evidence.committed[part.partition] = part.committed
        evidence.partitions += 1
    for record in _records(settings, admin, settings.topic_created, evidence):
        _note_result(record, evidence)
    for record in _records(settings, admin, settings.topic_dead_letters, evidence):
        _note_dead_letter(record, evidence)
    for record in _records(settings, admin, settings.topic_worker_events, evidence):
        _note_event(record, evidence)
    for record in _records(settings, admin, settings.topic_create, evidence):
        _note_request(record, evidence)
    return evidence


def catch_up(settings: Settings, admin: KafkaAdmin, evidence: Evidence) -> None:
    """Read on, through what came to the results and the dead letters since. Raises retry.Unavailable."""
    for record in _records(settings, admin, settings.topic_created, evidence):
        _note_result(record, evidence)
    for record in _records(settings, admin, settings.topic_dead_letters, evidence):
        _note_dead_letter(record, evidence)


def _note_request(record: Record, evidence: Evidence) -> None:
    file_id = file_id_in(record.value)
    file_run = (file_id, number_header(record.headers, RUN)) if file_id is not None else None
    number = number_header(record.headers, PUBLISH_NUMBER)
    evidence.requests.append(Request(file_run, number, record.partition, record.offset))


def _note_result(record: Record, evidence: Evidence) -> None:
    try:
        event = decode(record.value, FileCreated)
    except InvalidMessage:
        evidence.unreadable_events += 1
        return
    file_run = (event.file_id, event.run)
    known = evidence.results.setdefault(file_run, set())
    evidence.duplicate_results += bool(known)
    known.add(event.status)
    evidence.result_places.setdefault(file_run, (record.partition, record.offset))


def _note_event(record: Record, evidence: Evidence) -> None:
    try:
        event = decode_event(record.value)
    except InvalidMessage:
        evidence.unreadable_events += 1
        return
    if event.kind is Kind.CANCELLED and event.partition is not None and event.offset is not None:
        evidence.cancelled_places.add((event.partition, event.offset))


def _note_dead_letter(record: Record, evidence: Evidence) -> None:
    evidence.dead_letter_count += 1
    file_id = file_id_in(record.value)
    if file_id is not None:
        evidence.dead_letters.add(file_id)
    named = {name: value.decode(errors="replace") for name, value in record.headers}
    try:
        place = int(named["filemill-partition"]), int(named["filemill-offset"])
    except (KeyError, ValueError):
        return  # a dead letter of somebody else's
    evidence.dead_letter_places.add(place)


def _records(settings: Settings, admin: KafkaAdmin, topic: str, evidence: Evidence) -> Iterator[Record]:
    spans = admin.offsets(None, topic)
    if any(part.begin for part in spans):
        evidence.truncated.add(topic)
    since = dict(evidence.read_to)
    evidence.read_to.update({(topic, part.partition): part.end for part in spans if part.end is not None})
    return read_topic(settings, topic, spans, "verify", since)
