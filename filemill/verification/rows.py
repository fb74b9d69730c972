"""Every row against the topics, its object, and a fresh render."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

import sqlalchemy as sa

from filemill.adapters.tables import File, OutboxRow, Publication, SyncPosition
from filemill.content import render, sha256_hex
from filemill.files import Status, object_key
from filemill.ports import Missing, ObjectStore
from filemill.settings import Settings
from filemill.verification.evidence import Evidence, Told
from filemill.verification.report import Report

PAGE_ROWS = 1000
DOWNLOADS = 16

Row = sa.Row[tuple[object, ...]]
# Where unfinished requests are, by file and run: partition and offset; None for in the outbox; absent for nowhere.
Places = Mapping[tuple[int, int], tuple[int, int] | None]


async def check_rows(
    engine: sa.Engine, store: ObjectStore, settings: Settings, evidence: Evidence, report: Report
) -> list[Row]:
    """Go through the table once, a page at a time. Raises retry.Unavailable.

    Returns the rows that ended in a way which the evidence does not show: `check_ends` them with fresher evidence.
    """
    suspects = []
    free = asyncio.Semaphore(DOWNLOADS)
    # Before the rows: an event that was read by now must show on a row that is read later.
    read_by_sync = _sync_positions(engine, settings.topic_created)
    try:
        async with contextlib.aclosing(_pages(engine)) as pages, asyncio.TaskGroup() as tasks:
            async for rows, places in pages:
                told = evidence.told(rows[0].id, rows[-1].id)
                for row in rows:
                    _count(row, report)
                    if not Status(row.status).terminal:
                        _check_unfinished(row, places, read_by_sync, told, settings, evidence, report)
                    elif not (_supported(row, told, settings, evidence) and _buried(row, told, settings, evidence)):
                        suspects.append(row)
                    if row.status == Status.COMPLETED:
                        await free.acquire()
                        download = tasks.create_task(_check_object(row, store, report))
                        download.add_done_callback(lambda _: free.release())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the others say no more: the server is away
    return suspects


def check_ends(rows: Sequence[Row], settings: Settings, evidence: Evidence, report: Report) -> None:
    """Rows that have ended, against evidence that was gathered after they had."""
    for row in rows:
        told = evidence.told(row.id, row.id)
        if not _buried(row, told, settings, evidence):
            report.found("failed-without-dead-letter", row.id)
        if not _supported(row, told, settings, evidence):
            report.found("status-unsupported", f"{row.id} ({row.status})")


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
    places: dict[tuple[int, int], tuple[int, int] | None] = {(row.file_id, row.run): None for row in waiting}
    published = sa.select(Publication.file_id, Publication.run, Publication.partition, Publication.offset)
    for row in connection.execute(published.where(Publication.file_id.in_(ids))):
        places.setdefault((row.file_id, row.run), (row.partition, row.offset))
    return places


def _sync_positions(engine: sa.Engine, topic: str) -> dict[int, int]:
    """How far the sync has read a topic, by partition."""
    with engine.connect() as connection:
        found = sa.select(SyncPosition.partition, SyncPosition.next_offset).where(SyncPosition.topic == topic)
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


def _buried(row: Row, told: Told, settings: Settings, evidence: Evidence) -> bool:
    """Whether a failed row has its dead letter, or needs none: a foreign service knows nothing of them."""
    if row.status != Status.FAILED or row.worker_id is None or settings.topic_dead_letters in evidence.truncated:
        return True
    return row.id in told.dead_letters


def _check_unfinished(
    row: Row,
    places: Places,
    read_by_sync: Mapping[int, int],
    told: Told,
    settings: Settings,
    evidence: Evidence,
    report: Report,
) -> None:
    """An unfinished row is well while something will still end it: outbox, backlog, or an event not yet read."""
    if (row.id, row.run) not in places:
        report.found("lost", f"{row.id} (neither in the outbox nor published)")
        return
    place = places[row.id, row.run]
    results = told.results(row.id, row.run)
    if results:
        if results[0].offset < read_by_sync.get(results[0].partition, 0):
            report.found("status-not-applied", f"{row.id} ({row.status})")
    elif place is not None and settings.topic_created not in evidence.truncated:
        partition, offset = place
        if offset < (evidence.committed.get(partition) or 0):
            report.found("lost", f"{row.id} (partition {partition}, offset {offset}: committed, and without a result)")


def _supported(row: Row, told: Told, settings: Settings, evidence: Evidence) -> bool:
    """Whether an event of this run, or one without a run, says how the row ended. A cancel needs none."""
    if row.status == Status.CANCELLED or settings.topic_created in evidence.truncated:
        return True
    return any(result.status == row.status for result in told.results(row.id, row.run))


async def _check_object(row: Row, store: ObjectStore, report: Report) -> None:
    try:
        body = await store.get(row.s3_location or "")
    except Missing:
        report.found("object-missing", row.id)
        return
    if row.sha256 is not None and (sha256_hex(body) != row.sha256 or len(body) != row.size):
        report.found("object-differs", row.id)
    if row.worker_id is None:
        return  # a foreign service writes what it likes, where it likes
    if body != render(row.title, row.description, row.created_at):
        report.found("render-differs", row.id)
    elif row.s3_location != object_key(row.id, row.created_at):
        report.found("render-differs", f"{row.id} (key {row.s3_location})")
