"""Checks every row against the topics, its object, and a new render."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.postgres.file_actions import unfinished_runs
from filemill.adapters.postgres.request_losses import applied_positions, busy_workers
from filemill.config.settings import Settings
from filemill.domain.content import render, sha256_hex
from filemill.domain.files import Status, object_key
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.topic_records import TopicFacts
from filemill.errors import NotFound
from filemill.ports import ObjectStore
from filemill.queries.attempts import versions_made_by
from filemill.queries.verification import FileRow, FileRun, PublishedPosition, file_page, published_positions
from filemill.verification.findings import FindingCode
from filemill.verification.handler_results import HandlerResults, is_of_handler
from filemill.verification.report import VerificationReport
from filemill.verification.topics import TopicSnapshot

PAGE_ROWS = 1000
DOWNLOADS = 16

# Where unfinished runs are: a position on the topic, None for the outbox, absent for neither.
Positions = Mapping[FileRun, PublishedPosition | None]


async def check_rows(
    engine: sa.Engine,
    store: ObjectStore,
    settings: Settings,
    admin: KafkaAdmin,
    snapshot: TopicSnapshot,
    report: VerificationReport,
    results: HandlerResults,
) -> list[FileRow]:
    """Check the table once, a page at a time. Raises Unavailable.

    Returns rows whose end has no event in the snapshot. Pass them to `check_ends` after reading the topics again.
    """
    suspects = []
    unfinished = _UnfinishedCheck(engine, settings, snapshot)
    free = asyncio.Semaphore(DOWNLOADS)
    try:
        async with contextlib.aclosing(_pages(engine)) as pages, asyncio.TaskGroup() as tasks:
            async for rows, positions, versions in pages:
                facts = snapshot.index.facts(rows[0].id, rows[-1].id)
                for row in rows:
                    _count(row, report)
                    if not Status(row.status).terminal:
                        unfinished.check(row, positions, facts)
                    elif not _end_is_proved(row, facts, settings, snapshot):
                        suspects.append(row)
                    if row.status == Status.COMPLETED:
                        await free.acquire()
                        of_handler = is_of_handler(row)
                        check = (
                            results.check(row, versions.get(row.id))
                            if of_handler
                            else _check_object(row, store, report)
                        )
                        download = tasks.create_task(check)
                        download.add_done_callback(lambda _: free.release())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the others have the same cause: the server is unreachable
    unfinished.report(admin, report)
    return suspects


def check_ends(
    rows: Sequence[FileRow], settings: Settings, snapshot: TopicSnapshot, report: VerificationReport
) -> None:
    """Check terminal rows against events that were read after the rows."""
    for row in rows:
        facts = snapshot.index.facts(row.id, row.id)
        if not _has_dead_letter(row, facts, settings, snapshot):
            report.add_finding(FindingCode.FAILED_WITHOUT_DEAD_LETTER, row.id, row.id)
        if not _has_result(row, facts, settings, snapshot):
            report.add_finding(FindingCode.STATUS_UNSUPPORTED, f"{row.id} ({row.status})", row.id)


# Rows, where the unfinished ones are, and the versions of the handlers that made the completed ones.
_Page = tuple[Sequence[FileRow], Positions, Mapping[int, str]]


async def _pages(engine: sa.Engine) -> AsyncGenerator[_Page, None]:
    """Read the next page while one is checked; positions right after the rows, before they change."""
    coming = asyncio.create_task(asyncio.to_thread(_page, engine, 0))
    try:
        while (page := await coming)[0]:
            coming = asyncio.create_task(asyncio.to_thread(_page, engine, page[0][-1].id))
            yield page
    finally:
        coming.cancel()


def _page(engine: sa.Engine, after: int) -> _Page:
    with engine.connect() as connection:
        rows = file_page(connection, after, PAGE_ROWS)
        positions = published_positions(connection, [row.id for row in rows if not Status(row.status).terminal])
        made = [row.id for row in rows if row.status == Status.COMPLETED and is_of_handler(row)]
        return rows, positions, versions_made_by(connection, made)


def _count(row: FileRow, report: VerificationReport) -> None:
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


def _end_is_proved(row: FileRow, facts: TopicFacts, settings: Settings, snapshot: TopicSnapshot) -> bool:
    return _has_result(row, facts, settings, snapshot) and _has_dead_letter(row, facts, settings, snapshot)


def _has_dead_letter(row: FileRow, facts: TopicFacts, settings: Settings, snapshot: TopicSnapshot) -> bool:
    """Whether a failed row has its dead letter, or needs none: a foreign service writes none."""
    truncated = settings.topic_dead_letters in snapshot.coverage.truncated
    if row.status != Status.FAILED or row.worker_id is None or truncated:
        return True
    return row.id in facts.dead_letters


def _has_result(row: FileRow, facts: TopicFacts, settings: Settings, snapshot: TopicSnapshot) -> bool:
    """Whether an event of this run, or one without a run, reports the row's status. A cancel needs none."""
    if row.status == Status.CANCELLED or settings.topic_created in snapshot.coverage.truncated:
        return True
    return any(result.status == row.status for result in facts.results(row.id, row.run))


class _UnfinishedCheck:
    """An unfinished row needs a part that will end it: the outbox, the backlog, a worker, or an unread event."""

    def __init__(self, engine: sa.Engine, settings: Settings, snapshot: TopicSnapshot) -> None:
        self._engine = engine
        self._settings = settings
        self._snapshot = snapshot
        self._topics = {queue.name: queue.topic for queue in settings.all_queues.values()}
        # Before the rows: an event that the sync has read by now must show on a row that is read later.
        with engine.connect() as connection:
            generation = snapshot.generations[settings.topic_created]
            self._read_by_sync = applied_positions(connection, settings.topic_created, generation)
            self._busy, idle = busy_workers(connection)
        # An owner may have read a record before its removal, unless it has nothing in progress.
        self._held_partitions = {
            (queue, partition)
            for queue, owners in snapshot.owners.items()
            for partition, owner in owners.items()
            if owner not in idle
        }
        self._found: list[tuple[FileRow, FindingCode, str]] = []
        self._beyond: list[tuple[FileRow, PublishedPosition]] = []

    def check(self, row: FileRow, positions: Positions, facts: TopicFacts) -> None:
        """Check a row against the snapshot; `report` checks again what may have changed since."""
        if (row.id, row.run) not in positions:
            self._add(row, FindingCode.LOST, "neither in the outbox nor published")
            return
        position = positions[row.id, row.run]
        results = facts.results(row.id, row.run)
        if results:
            if results[0].offset < self._read_by_sync.get(results[0].partition, 0):
                self._add(row, FindingCode.STATUS_NOT_APPLIED, str(row.status))
        elif position is not None and not self._in_progress(row):
            self._check_record(row, position)

    def _check_record(self, row: FileRow, position: PublishedPosition) -> None:
        sequence, partition, offset, generation, queue = position
        topic = self._topics.get(queue)
        if topic is None:
            self._add(row, FindingCode.REQUEST_GONE, f"the queue {queue} is not configured")
            return
        where = _where(position)
        committed = offset < (self._snapshot.committed[queue].get(partition) or 0)
        present = self._snapshot.index.has_request(sequence, row.id, queue)
        if generation != self._snapshot.generations[topic]:
            if not present:
                self._add(row, FindingCode.REQUEST_GONE, f"{where} of a topic that was deleted")
        elif offset >= self._snapshot.coverage.read_to.get((topic, partition), 0):
            self._beyond.append((row, position))
        elif not present:
            if committed or (queue, partition) not in self._held_partitions:
                self._add(row, FindingCode.REQUEST_GONE, f"{where}: removed before it was processed")
        elif committed:
            self._add(row, FindingCode.LOST, f"{where}: committed without a result")

    def _add(self, row: FileRow, code: FindingCode, why: str) -> None:
        self._found.append((row, code, f"{row.id} ({why})"))

    def _in_progress(self, row: FileRow) -> bool:
        """Whether a live worker may have the record in progress."""
        since = self._busy.get(row.worker_id)
        return row.status == Status.PROCESSING and since is not None and row.updated_at >= since

    def report(self, admin: KafkaAdmin, report: VerificationReport) -> None:
        """Report what still holds. A record beyond the end that was read is new, or never was on this topic."""
        for queue in sorted({position.queue for _, position in self._beyond}):
            ends = admin.high_watermarks(self._topics[queue])
            for row, position in self._beyond:
                if position.queue == queue and position.offset >= ends.get(position.partition, 0):
                    self._add(row, FindingCode.REQUEST_GONE, f"{_where(position)}: the partition ends before it")
        ids = [(row.id, row.run) for row, _, _ in self._found]
        with self._engine.connect() as connection:
            unfinished = set(unfinished_runs(connection, ids)) if ids else set()
        for row, code, example in self._found:
            if row.id in unfinished or code is FindingCode.STATUS_NOT_APPLIED:
                report.add_finding(code, example, row.id)


def _where(position: PublishedPosition) -> str:
    of_queue = "" if position.queue == DEFAULT_QUEUE else f"{position.queue}, "
    return f"{of_queue}partition {position.partition}, offset {position.offset}"


async def _check_object(row: FileRow, store: ObjectStore, report: VerificationReport) -> None:
    try:
        body = await store.get(row.s3_location or "")
    except NotFound:
        report.add_finding(FindingCode.OBJECT_MISSING, row.id, row.id)
        return
    if row.sha256 is not None and (sha256_hex(body) != row.sha256 or len(body) != row.size):
        report.add_finding(FindingCode.OBJECT_DIFFERS, row.id, row.id)
    if row.worker_id is None:
        return  # content and key of a foreign service are its own
    if body != render(row.title, row.description, row.created_at):
        report.add_finding(FindingCode.RENDER_DIFFERS, row.id, row.id)
    elif row.s3_location != object_key(row.id, row.created_at):
        report.add_finding(FindingCode.RENDER_DIFFERS, f"{row.id} (key {row.s3_location})", row.id)
