"""Runs the verification: topics, rows, bucket, sequence numbers, commits, progress."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin, all_topics
from filemill.adapters.postgres.audit import offset_resets
from filemill.adapters.postgres.file_actions import unfinished_runs
from filemill.adapters.postgres.topics import known_generations
from filemill.adapters.sqlite.topic_index import TopicIndex
from filemill.config.settings import Settings
from filemill.domain.partitioning import cycle_breaks
from filemill.domain.queues import DEFAULT_QUEUE, Queue
from filemill.domain.topic_records import RequestRecord
from filemill.ports import ObjectStore, ObjectStreams
from filemill.queries.audit import verify_audit
from filemill.queries.stalls import current_stalls
from filemill.queries.verification import (
    count_deleted,
    next_sequence,
    sequences_of_other_generations,
    unpublished_sequences,
)
from filemill.verification.bucket import check_bucket
from filemill.verification.findings import FindingCode
from filemill.verification.handler_results import HandlerResults, InstalledHandlers
from filemill.verification.leftovers import note_open_uploads
from filemill.verification.report import VerificationReport
from filemill.verification.rows import check_ends, check_rows
from filemill.verification.topics import TopicSnapshot


class Bucket(ObjectStore, ObjectStreams, Protocol):
    """The bucket, for small objects and for those of any size."""


async def verify(
    settings: Settings,
    engine: sa.Engine,
    admin: KafkaAdmin,
    store: Bucket,
    handlers: InstalledHandlers | None = None,
) -> VerificationReport:
    """Check the invariants against the servers; a pipeline at rest is checked completely.

    Objects are downloaded and compared with a new render, the bucket is listed, and the topics are read from their
    beginnings. `handlers` make the results of deterministic handlers again. Raises Unavailable if a server is
    unreachable.
    """
    began = time.monotonic()
    report = VerificationReport()
    with contextlib.closing(TopicIndex()) as index:
        snapshot = TopicSnapshot(settings, admin, _generations(settings, engine, admin, report), index)
        snapshot.read()
        for topic in sorted(snapshot.coverage.truncated):
            if snapshot.generations[topic] == 1:
                report.add_note(f"{topic} has lost records from its beginning: checks that need them were skipped")
        results = HandlerResults(store, handlers, report)
        suspects = await check_rows(engine, store, settings, admin, snapshot, report, results)
        results.add_notes()
        note_open_uploads(engine, settings, report)
        if suspects:
            snapshot.read_results()  # on a busy pipeline most of them ended after the topics were read
            check_ends(suspects, settings, snapshot, report)
        report.dead_letters = index.dead_letters()
        report.dead_letters_distinct = index.distinct_dead_letters()
        report.duplicate_results = index.duplicate_results()
        report.unreadable_events = snapshot.coverage.unreadable_events
        for topic, count in sorted(snapshot.coverage.unreadable_headers.items()):
            report.add_note(f"{topic} has {count} records with unreadable headers")
        await check_bucket(engine, store, report)
        with engine.connect() as connection:
            report.deleted = count_deleted(connection)
        report.repeats = index.repeats()
        for queue in settings.all_queues.values():
            _check_sequences(engine, queue, snapshot, report)
            _check_commits(engine, settings, queue, snapshot, report)
            _check_stalls(engine, settings.of_queue(queue.name), report)
    _check_audit(engine, report)
    report.seconds = round(time.monotonic() - began, 3)
    return report


def _check_audit(engine: sa.Engine, report: VerificationReport) -> None:
    found = verify_audit(engine)
    report.audit_rows, report.audit_head = found.rows, found.head
    for finding in found.findings:
        for example in finding.examples:
            report.add_finding(FindingCode.AUDIT_CHANGED, f"{finding.check}: {example}")


def _generations(
    settings: Settings, engine: sa.Engine, admin: KafkaAdmin, report: VerificationReport
) -> dict[str, int]:
    """The number of the present topic of each name. A recreated topic lacks the records of the earlier ones."""
    names = all_topics(settings)
    with engine.connect() as connection:
        found = known_generations(connection, admin.identities(names))
    numbers = {topic: found.get(topic, 0) for topic in names}
    for topic, generation in sorted(numbers.items()):
        if generation != 1:
            what = "was deleted and created again" if topic in found else "does not exist"
            report.add_note(f"{topic} {what}: checks of its earlier records were skipped")
    return numbers


def _check_sequences(engine: sa.Engine, queue: Queue, snapshot: TopicSnapshot, report: VerificationReport) -> None:
    name, index = queue.name, snapshot.index

    def example(sequence: int) -> int | str:
        return sequence if name == DEFAULT_QUEUE else f"{sequence} of {name}"

    with engine.connect() as connection:  # after the topics were read: every number on them has been assigned
        assigned_below = next_sequence(connection, name)
    if unknown := index.ignore_unknown_sequences(assigned_below, name):
        report.add_note(f"{unknown} records of {queue.topic} carry sequence numbers that no relay has assigned")
    for sequence in index.sequences_on_two_partitions(name):
        report.add_finding(FindingCode.SEQUENCE_TWICE, example(sequence))
    other = _sequences_of_other_generations(engine, queue, snapshot)
    in_turn = (placement for placement in index.sequences(name) if placement.sequence not in other)
    for sequence in cycle_breaks(in_turn, len(snapshot.committed[name])):
        report.add_finding(FindingCode.SEQUENCE_OUT_OF_TURN, example(sequence))
    absent = set(_gaps(placement.sequence for placement in index.sequences(name)))
    for sequence in sorted(absent - _excused_sequences(engine, queue, snapshot, absent)):
        report.add_finding(FindingCode.SEQUENCE_MISSING, example(sequence))


def _gaps(numbers: Iterable[int]) -> Iterator[int]:
    """The numbers from 1 that are missing between ascending ones."""
    expected = 1
    for number in numbers:
        yield from range(expected, number)
        expected = number + 1


def _sequences_of_other_generations(engine: sa.Engine, queue: Queue, snapshot: TopicSnapshot) -> set[int]:
    """Sequence numbers on the topic that a relay assigned before it knew of this topic: another cycle applies."""
    generation, least = snapshot.generations[queue.topic], snapshot.index.first_sequence(queue.name)
    if generation == 1 or least is None:
        return set()
    with engine.connect() as connection:
        return sequences_of_other_generations(connection, queue.name, generation, least)


def _excused_sequences(engine: sa.Engine, queue: Queue, snapshot: TopicSnapshot, numbers: set[int]) -> set[int]:
    """Those of the sequence numbers that need not be on the topic.

    They are in the outbox, were published after the topic was read, were removed by retention, were on an earlier
    topic of the name, or were abandoned with one.
    """
    if not numbers:
        return set()
    topic, generation = queue.topic, snapshot.generations[queue.topic]
    with engine.connect() as connection:
        excused, published = unpublished_sequences(connection, queue.name, numbers)
    for sequence, position in published.items():
        begin = snapshot.coverage.begins.get((topic, position.partition), 0)
        end = snapshot.coverage.read_to.get((topic, position.partition), 0)
        if position.generation != generation or not begin <= position.offset < end:
            excused.add(sequence)
    return excused


def _check_commits(
    engine: sa.Engine, settings: Settings, queue: Queue, snapshot: TopicSnapshot, report: VerificationReport
) -> None:
    needed = {settings.topic_created, settings.topic_dead_letters, settings.topic_worker_events}
    if snapshot.coverage.truncated & needed:
        return
    passed = snapshot.index.committed_unfinished(snapshot.committed[queue.name], queue.name)
    for request in _without_resets(engine, settings.of_queue(queue.name), passed):
        of_queue = "" if queue.name == DEFAULT_QUEUE else f"{queue.name}, "
        example = f"{of_queue}partition {request.partition}, offset {request.offset}"
        report.add_finding(FindingCode.COMMITTED_UNFINISHED, example)


def _check_stalls(engine: sa.Engine, settings: Settings, report: VerificationReport) -> None:
    """Uses the group monitor's samples: without them it is unknown how long an offset has not advanced."""
    with engine.connect() as connection:
        stalled = current_stalls(connection, settings)
    for one in stalled:
        if one.explained:
            report.add_note(one.sentence)
        else:
            report.add_finding(FindingCode.PARTITION_STALLED, one.sentence)


def _without_resets(engine: sa.Engine, settings: Settings, passed: list[RequestRecord]) -> list[RequestRecord]:
    """Without the records that a recorded offset reset skipped and whose runs have ended."""
    if not passed:
        return []
    with engine.connect() as connection:
        resets = offset_resets(connection, settings.kafka_group, settings.topic_create)
        # A record without a run is foreign and belongs to the first run: later runs go through the outbox.
        runs = [(one.file_id, one.run or 1) for one in passed if one.file_id is not None]
        unfinished = set(unfinished_runs(connection, runs))
    return [
        request
        for request in passed
        if request.file_id in unfinished or not any(reset.skips(request.partition, request.offset) for reset in resets)
    ]
