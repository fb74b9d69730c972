"""Every row against the topics, its object, and a fresh render."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa

from filemill.adapters.tables import File, OutboxRow, Publication, SyncPosition
from filemill.content import render, sha256_hex
from filemill.files import Status, object_key
from filemill.ports import Missing, ObjectStore
from filemill.settings import Settings
from filemill.verification.evidence import Evidence
from filemill.verification.report import Report

PAGE_ROWS = 1000
DOWNLOADS = 16

Row = sa.Row[tuple[object, ...]]


async def check_rows(
    engine: sa.Engine, store: ObjectStore, settings: Settings, evidence: Evidence, report: Report
) -> list[Row]:
    """Go through the table once, a page at a time. Raises retry.Unavailable.

    Returns the rows that ended in a way which the evidence does not show: `check_ends` them with fresher evidence.
    """
    suspects = []
    downloads = asyncio.Semaphore(DOWNLOADS)
    # Before the rows: an event that was read by now must show on a row that is read later.
    read_by_sync = _sync_positions(engine, settings.topic_created)
    for rows in _pages(engine):
        places = _places(engine, [row.id for row in rows if not Status(row.status).terminal])
        completed = [row for row in rows if row.status == Status.COMPLETED]
        for row in rows:
            _count(row, report)
            if not Status(row.status).terminal:
                _check_unfinished(row, places, read_by_sync, settings, evidence, report)
            elif not (_supported(row, settings, evidence) and _buried(row, settings, evidence)):
                suspects.append(row)
        await asyncio.gather(*(_check_object(row, store, downloads, report) for row in completed))
    return suspects


def check_ends(rows: Sequence[Row], settings: Settings, evidence: Evidence, report: Report) -> None:
    """Rows that have ended, against evidence that was gathered after they had."""
    for row in rows:
        if not _buried(row, settings, evidence):
            report.found("failed-without-dead-letter", row.id)
        if not _supported(row, settings, evidence):
            report.found("status-unsupported", f"{row.id} ({row.status})")


def _pages(engine: sa.Engine) -> Iterator[Sequence[Row]]:
    last = 0
    while True:
        page = sa.select(File.__table__).where(File.id > last).order_by(File.id).limit(PAGE_ROWS)
        with engine.connect() as connection:
            rows = connection.execute(page).all()
        if not rows:
            return
        yield rows
        last = rows[-1].id


def _places(engine: sa.Engine, ids: list[int]) -> Mapping[tuple[int, int], tuple[int, int] | None]:
    """Where unfinished requests are: on which partition and offset; None for in the outbox; absent for nowhere."""
    if not ids:
        return {}
    with engine.connect() as connection:
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


def _buried(row: Row, settings: Settings, evidence: Evidence) -> bool:
    """Whether a failed row has its dead letter, or needs none: a foreign service knows nothing of them."""
    if row.status != Status.FAILED or row.worker_id is None or settings.topic_dead_letters in evidence.truncated:
        return True
    return row.id in evidence.dead_letters


def _check_unfinished(
    row: Row,
    places: Mapping[tuple[int, int], tuple[int, int] | None],
    read_by_sync: Mapping[int, int],
    settings: Settings,
    evidence: Evidence,
    report: Report,
) -> None:
    """An unfinished row is well while something will still end it: outbox, backlog, or an event not yet read."""
    if (row.id, row.run) not in places:
        report.found("lost", f"{row.id} (neither in the outbox nor published)")
        return
    place = places[row.id, row.run]
    result = evidence.result_of(row.id, row.run)
    if result is not None:
        partition, offset = result
        if offset < read_by_sync.get(partition, 0):
            report.found("status-not-applied", f"{row.id} ({row.status})")
    elif place is not None and settings.topic_created not in evidence.truncated:
        partition, offset = place
        if offset < (evidence.committed.get(partition) or 0):
            report.found("lost", f"{row.id} (partition {partition}, offset {offset}: committed, and without a result)")


def _supported(row: Row, settings: Settings, evidence: Evidence) -> bool:
    """Whether an event of this run, or one without a run, says how the row ended. A cancel needs none."""
    if row.status == Status.CANCELLED or settings.topic_created in evidence.truncated:
        return True
    return any(row.status in evidence.results.get((row.id, run), ()) for run in (row.run, None))


async def _check_object(row: Row, store: ObjectStore, downloads: asyncio.Semaphore, report: Report) -> None:
    try:
        async with downloads:
            body = await store.get(row.s3_location or "")
    except Missing:
        report.found("object-missing", row.id)
        return
    sha256 = sha256_hex(body)
    if row.sha256 is not None and (sha256 != row.sha256 or len(body) != row.size):
        report.found("object-differs", row.id)
    if row.worker_id is None:
        return  # a foreign service writes what it likes, where it likes
    if sha256 != sha256_hex(render(row.title, row.description, row.created_at)):
        report.found("render-differs", row.id)
    elif row.s3_location != object_key(row.id, row.created_at):
        report.found("render-differs", f"{row.id} (key {row.s3_location})")
