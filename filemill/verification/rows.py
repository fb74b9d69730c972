"""Every row against the topics, its object, and a fresh render."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.postgres.file_actions import unfinished_runs
from filemill.adapters.postgres.request_losses import busy_workers
from filemill.adapters.postgres.tables import File, OutboxRow, Publication, SyncPosition
from filemill.config.settings import Settings
from filemill.domain.content import render, sha256_hex
from filemill.domain.files import Status, object_key
from filemill.errors import NotFound
from filemill.ports import ObjectStore
from filemill.verification.report import Report
from filemill.verification.topic_index import TopicFacts, TopicIndex

PAGE_ROWS = 1000
DOWNLOADS = 16

Row = sa.Row[tuple[object, ...]]


class PublishedPosition(NamedTuple):
    """Where a request was published, on which of the topics that had the name."""

    sequence: int
    partition: int
    offset: int
    generation: int


# Where unfinished requests are, by file and run; None for in the outbox; absent for nowhere.
Places = Mapping[tuple[int, int], PublishedPosition | None]


async def check_rows(
    engine: sa.Engine, store: ObjectStore, settings: Settings, admin: KafkaAdmin, evidence: TopicIndex, report: Report
) -> list[Row]:
    """Go through the table once, a page at a time. Raises Unavailable.

    Returns the rows that ended in a way which the evidence does not show: `check_ends` them with fresher evidence.
    """
    suspects = []
    unfinished = _Unfinished(engine, settings, evidence)
    free = asyncio.Semaphore(DOWNLOADS)
    try:
        async with contextlib.aclosing(_pages(engine)) as pages, asyncio.TaskGroup() as tasks:
            async for rows, places in pages:
                told = evidence.facts(rows[0].id, rows[-1].id)
                for row in rows:
                    _count(row, report)
                    if not Status(row.status).terminal:
                        unfinished.check(row, places, told)
                    elif not (
                        _has_result(row, told, settings, evidence) and _has_dead_letter(row, told, settings, evidence)
                    ):
                        suspects.append(row)
                    if row.status == Status.COMPLETED:
                        await free.acquire()
                        download = tasks.create_task(_check_object(row, store, report))
                        download.add_done_callback(lambda _: free.release())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the others say no more: the server is away
    unfinished.report(admin, report)
    return suspects


def check_ends(rows: Sequence[Row], settings: Settings, evidence: TopicIndex, report: Report) -> None:
    """Rows that have ended, against evidence that was gathered after they had."""
    for row in rows:
        told = evidence.facts(row.id, row.id)
        if not _has_dead_letter(row, told, settings, evidence):
            report.add_finding("failed-without-dead-letter", row.id)
        if not _has_result(row, told, settings, evidence):
            report.add_finding("status-unsupported", f"{row.id} ({row.status})")


async def _pages(engine: sa.Engine) -> AsyncGenerator[tuple[Sequence[Row], Places], None]:
    """The next page is read while one is worked on; a page's places right after its rows, before much can change."""
    coming = asyncio.create_task(asyncio.to_thread(_page, engine, 0))
    try:
        while (page := await coming)[0]:
            coming = asyncio.create_task(asyncio.to_thread(_page, engine, page[0][-1].id))
            yield page
    finally:
        coming.cancel()


def _page(engine: sa.Engine, after: int) -> tuple[Sequence[Row], Places]:
    page = sa.select(File.__table__).where(File.id > after).order_by(File.id).limit(PAGE_ROWS)
    with engine.connect() as connection:
        rows = connection.execute(page).all()
        return rows, _places(connection, [row.id for row in rows if not Status(row.status).terminal])


def _places(connection: sa.Connection, ids: list[int]) -> Places:
    if not ids:
        return {}
    waiting = connection.execute(sa.select(OutboxRow.file_id, OutboxRow.run).where(OutboxRow.file_id.in_(ids)))
    places: dict[tuple[int, int], PublishedPosition | None] = {(row.file_id, row.run): None for row in waiting}
    published = sa.select(
        Publication.file_id,
        Publication.run,
        Publication.publish_number,
        Publication.partition,
        Publication.offset,
        Publication.generation,
    )
    for row in connection.execute(published.where(Publication.file_id.in_(ids))):
        place = PublishedPosition(row.publish_number, row.partition, row.offset, row.generation)
        places.setdefault((row.file_id, row.run), place)
    return places


def _sync_positions(engine: sa.Engine, topic: str, generation: int) -> dict[int, int]:
    """How far the sync has read a topic, by partition."""
    with engine.connect() as connection:
        found = sa.select(SyncPosition.partition, SyncPosition.next_offset).where(
            SyncPosition.topic == topic, SyncPosition.generation == generation
        )
        return {row.partition: row.next_offset for row in connection.execute(found)}


def _count(row: Row, report: Report) -> None:
    report.submitted += 1
    if row.status == Status.COMPLETED:
        report.completed += 1
        report.foreign += row.worker_id is None
    elif row.status == Status.FAILED:
        report.failed += 1
    elif row.status == Status.CANCELLED:
        report.cancelled += 1
    else:
        report.in_flight += 1


def _has_dead_letter(row: Row, told: TopicFacts, settings: Settings, evidence: TopicIndex) -> bool:
    """Whether a failed row has its dead letter, or needs none: a foreign service knows nothing of them."""
    if row.status != Status.FAILED or row.worker_id is None or settings.topic_dead_letters in evidence.truncated:
        return True
    return row.id in told.dead_letters


class _Unfinished:
    """An unfinished row is well while something will still end it: outbox, backlog, a worker, an event not yet read."""

    def __init__(self, engine: sa.Engine, settings: Settings, evidence: TopicIndex) -> None:
        self._engine = engine
        self._settings = settings
        self._evidence = evidence
        self._generation = evidence.generations[settings.topic_create]
        # Before the rows: an event that was read by now must show on a row that is read later.
        generation = evidence.generations[settings.topic_created]
        self._read_by_sync = _sync_positions(engine, settings.topic_created, generation)
        with engine.connect() as connection:
            self._busy, idle = busy_workers(connection)
        # An owner may have read a record before it was removed; one that has nothing in progress has not.
        self._held_partitions = {partition for partition, owner in evidence.owners.items() if owner not in idle}
        self._found: list[tuple[Row, str, str]] = []  # check and example
        self._beyond: list[tuple[Row, PublishedPosition]] = []

    def check(self, row: Row, places: Places, told: TopicFacts) -> None:
        """Judge a row by what is known; what may have changed since is judged in `report`."""
        if (row.id, row.run) not in places:
            self._found.append((row, "lost", f"{row.id} (neither in the outbox nor published)"))
            return
        place = places[row.id, row.run]
        results = told.results(row.id, row.run)
        if results:
            if results[0].offset < self._read_by_sync.get(results[0].partition, 0):
                self._found.append((row, "status-not-applied", f"{row.id} ({row.status})"))
        elif place is not None and not self._held(row):
            self._check_record(row, place)

    def _check_record(self, row: Row, place: PublishedPosition) -> None:
        _, partition, offset, generation = place
        where, topic = f"partition {partition}, offset {offset}", self._settings.topic_create
        committed = offset < (self._evidence.committed.get(partition) or 0)
        if generation != self._generation:
            if not self._evidence.has_request(place.sequence, row.id):
                self._found.append((row, "request-gone", f"{row.id} ({where} of a topic that was deleted)"))
        elif offset >= self._evidence.read_to.get((topic, partition), 0):
            self._beyond.append((row, place))
        elif not self._evidence.has_request(place.sequence, row.id):
            if committed or partition not in self._held_partitions:
                self._found.append((row, "request-gone", f"{row.id} ({where}: removed before it was processed)"))
        elif committed:
            self._found.append((row, "lost", f"{row.id} ({where}: committed, and without a result)"))

    def _held(self, row: Row) -> bool:
        """Whether a worker that lives may have the record in progress."""
        since = self._busy.get(row.worker_id)
        return row.status == Status.PROCESSING and since is not None and row.updated_at >= since

    def report(self, admin: KafkaAdmin, report: Report) -> None:
        """Say what is still so. What lies beyond the end that was read came since, or never was on this topic."""
        if self._beyond:
            ends = admin.high_watermarks(self._settings.topic_create)
            for row, place in self._beyond:
                if place.offset >= ends.get(place.partition, 0):
                    where = f"partition {place.partition}, offset {place.offset}: the partition ends before it"
                    self._found.append((row, "request-gone", f"{row.id} ({where})"))
        ids = [(row.id, row.run) for row, _, _ in self._found]
        with self._engine.connect() as connection:
            unfinished = set(unfinished_runs(connection, ids)) if ids else set()
        for row, check, example in self._found:
            if row.id in unfinished or check == "status-not-applied":
                report.add_finding(check, example)


def _has_result(row: Row, told: TopicFacts, settings: Settings, evidence: TopicIndex) -> bool:
    """Whether an event of this run, or one without a run, says how the row ended. A cancel needs none."""
    if row.status == Status.CANCELLED or settings.topic_created in evidence.truncated:
        return True
    return any(result.status == row.status for result in told.results(row.id, row.run))


async def _check_object(row: Row, store: ObjectStore, report: Report) -> None:
    try:
        body = await store.get(row.s3_location or "")
    except NotFound:
        report.add_finding("object-missing", row.id)
        return
    if row.sha256 is not None and (sha256_hex(body) != row.sha256 or len(body) != row.size):
        report.add_finding("object-differs", row.id)
    if row.worker_id is None:
        return  # a foreign service writes what it likes, where it likes
    if body != render(row.title, row.description, row.created_at):
        report.add_finding("render-differs", row.id)
    elif row.s3_location != object_key(row.id, row.created_at):
        report.add_finding("render-differs", f"{row.id} (key {row.s3_location})")
