"""The verification, in order: topics, rows, bucket, publish numbers, commits."""

import contextlib
import time
from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin, all_topics
from filemill.adapters.postgres.audit import offset_resets
from filemill.adapters.postgres.file_actions import unfinished_runs
from filemill.adapters.postgres.tables import (
    AbandonedNumber,
    OutboxRow,
    Publication,
    PublishCounter,
    Tombstone,
)
from filemill.adapters.postgres.topics import generations
from filemill.config.settings import Settings
from filemill.domain.partitioning import cycle_breaks
from filemill.ports import ObjectStore
from filemill.queries.group import group_state, lags
from filemill.queries.stalls import stalled_partitions
from filemill.verification.bucket import check_bucket
from filemill.verification.report import Report
from filemill.verification.rows import check_ends, check_rows
from filemill.verification.topic_index import RequestRecord, TopicIndex, catch_up, gather


async def verify(settings: Settings, engine: sa.Engine, admin: KafkaAdmin, store: ObjectStore) -> Report:
    """Check the invariants that hold at rest, and on a pipeline that works those that hold always.

    It trusts nothing that it can look at: objects are downloaded and rendered afresh, the bucket is listed, the topics
    are read from their beginnings. Raises Unavailable where a server is away: then nothing is known.
    """
    began = time.monotonic()
    report = Report()
    with contextlib.closing(TopicIndex()) as evidence:
        _tell_topics_apart(settings, engine, admin, evidence, report)
        gather(settings, admin, evidence)
        for topic in sorted(evidence.truncated):
            if evidence.generations[topic] == 1:
                report.add_note(f"{topic} has lost its beginning to retention: checks that need it were left out")
        suspects = await check_rows(engine, store, settings, admin, evidence, report)
        if suspects:
            catch_up(settings, admin, evidence)  # on a pipeline that works, most ended after the topics were read
            check_ends(suspects, settings, evidence, report)
        report.dead_letters = evidence.dead_letters()
        report.dead_letters_distinct = evidence.distinct_dead_letters()
        report.duplicate_results = evidence.duplicate_results()
        report.unreadable_events = evidence.unreadable_events
        for topic, count in sorted(evidence.unreadable_headers.items()):
            report.add_note(f"{topic} has {count} records whose headers cannot be read")
        await check_bucket(engine, store, report)
        with engine.connect() as connection:
            report.deleted = connection.execute(sa.select(sa.func.count()).select_from(Tombstone)).scalar_one()
        _check_publications(engine, settings, evidence, report)
        _check_commits(engine, settings, evidence, report)
        _check_stalls(engine, settings, report)
    report.seconds = round(time.monotonic() - began, 3)
    return report


def _tell_topics_apart(
    settings: Settings, engine: sa.Engine, admin: KafkaAdmin, evidence: TopicIndex, report: Report
) -> None:
    """Which of the topics that had a name is read. One that was recreated has not what was on the one before."""
    names = all_topics(settings)
    with engine.connect() as connection:
        found = generations(connection, admin.identities(names))
    evidence.generations = {topic: found.get(topic, 0) for topic in names}
    for topic, generation in sorted(evidence.generations.items()):
        if generation != 1:
            evidence.truncated.add(topic)
            what = "was deleted and created again" if topic in found else "does not exist"
            report.add_note(f"{topic} {what}: checks of what was on it before were left out")


def _check_publications(engine: sa.Engine, settings: Settings, evidence: TopicIndex, report: Report) -> None:
    with engine.connect() as connection:  # after the topics were read: what is on them has been counted
        next_number = connection.execute(sa.select(PublishCounter.next_number)).scalar_one()
    if strangers := evidence.ignore_unknown_sequences(next_number):
        report.add_note(
            f"{strangers} records of {settings.topic_create} bear publish numbers that nobody has given yet"
        )
    for number in evidence.sequences_on_two_partitions():
        report.add_finding("publish-number-twice", number)
    report.repeats = evidence.repeats()
    astray = _numbered_for_another_topic(engine, settings, evidence)
    in_turn = (slot for slot in evidence.sequences() if slot.sequence not in astray)
    for number in cycle_breaks(in_turn, evidence.partitions):
        report.add_finding("publish-out-of-turn", number)
    absent = set(_gaps(slot.sequence for slot in evidence.sequences()))
    for number in sorted(absent - _not_to_be_seen_yet(engine, settings, evidence, absent)):
        report.add_finding("publish-number-missing", number)


def _gaps(numbers: Iterable[int]) -> Iterator[int]:
    """The numbers from 1 that ascending ones leave out."""
    expected = 1
    for number in numbers:
        yield from range(expected, number)
        expected = number + 1


def _numbered_for_another_topic(engine: sa.Engine, settings: Settings, evidence: TopicIndex) -> set[int]:
    """Numbers on the topic that a relay gave before it knew of this one: they follow the turn of another."""
    generation, least = evidence.generations[settings.topic_create], evidence.first_sequence()
    if generation == 1 or least is None:
        return set()
    elsewhere = sa.select(Publication.publish_number).where(
        Publication.publish_number >= least, Publication.generation != generation
    )
    given_up = sa.select(AbandonedNumber.publish_number).where(AbandonedNumber.publish_number >= least)
    with engine.connect() as connection:
        return {*connection.execute(elsewhere).scalars(), *connection.execute(given_up).scalars()}


def _not_to_be_seen_yet(engine: sa.Engine, settings: Settings, evidence: TopicIndex, numbers: set[int]) -> set[int]:
    """Those of the numbers that need not be on the topic.

    They are in the outbox, came after the topic was read, were removed by retention, were on a topic of this name that
    is gone, or were given up with one.
    """
    if not numbers:
        return set()
    topic, generation = settings.topic_create, evidence.generations[settings.topic_create]
    # The outbox first: a row leaves it for the publications, never the other way.
    waiting = sa.select(OutboxRow.publish_number).where(OutboxRow.publish_number.is_not(None))
    absent = sa.bindparam("absent", sorted(numbers), type_=sa.ARRAY(sa.BigInteger))
    places = sa.select(
        Publication.publish_number, Publication.partition, Publication.offset, Publication.generation
    ).where(Publication.publish_number == sa.func.any(absent))
    given_up = sa.select(AbandonedNumber.publish_number).where(AbandonedNumber.publish_number == sa.func.any(absent))
    with engine.connect() as connection:
        unseen = {number for number in connection.execute(waiting).scalars() if number is not None}
        unseen.update(connection.execute(given_up).scalars())
        for row in connection.execute(places):
            begin = evidence.begins.get((topic, row.partition), 0)
            end = evidence.read_to.get((topic, row.partition), 0)
            if row.generation != generation or not begin <= row.offset < end:
                unseen.add(row.publish_number)
    return unseen


def _check_commits(engine: sa.Engine, settings: Settings, evidence: TopicIndex, report: Report) -> None:
    if evidence.truncated & {settings.topic_created, settings.topic_dead_letters, settings.topic_worker_events}:
        return
    passed = evidence.committed_unfinished()
    for request in _not_passed_over_by_a_person(engine, settings, passed):
        report.add_finding("committed-unfinished", f"partition {request.partition}, offset {request.offset}")


def _check_stalls(engine: sa.Engine, settings: Settings, report: Report) -> None:
    """By the monitor's samples: without them nothing is known of how long an offset stands still."""
    with engine.connect() as connection:
        stalled = stalled_partitions(
            connection,
            group_state(connection, settings.group_id),
            lags(connection, settings.group_id),
            group_id=settings.group_id,
            processing_seconds=settings.longest_job_seconds,
            session_seconds=settings.session_timeout_ms / 1000,
        )
    for one in stalled:
        if one.explained:
            report.add_note(one.sentence)
        else:
            report.add_finding("partition-stalled", one.sentence)


def _not_passed_over_by_a_person(
    engine: sa.Engine, settings: Settings, passed: list[RequestRecord]
) -> list[RequestRecord]:
    """Without those that a reset on record skipped, and whose runs have ended all the same."""
    if not passed:
        return []
    with engine.connect() as connection:
        resets = offset_resets(connection, settings.kafka_group, settings.topic_create)
        # A foreign record, which carries no run, is of the first: a later one went through the outbox.
        runs = [(one.file_id, one.run or 1) for one in passed if one.file_id is not None]
        unfinished = set(unfinished_runs(connection, runs))
    return [
        request
        for request in passed
        if request.file_id in unfinished or not any(reset.skips(request.partition, request.offset) for reset in resets)
    ]
