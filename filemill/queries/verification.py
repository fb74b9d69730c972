"""What `filemill verify` and the lab read from Postgres. Functions raise Unavailable as every statement does."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from filemill.adapters.postgres.tables import (
    AbandonedNumber,
    File,
    LagSample,
    Operation,
    OutboxRow,
    Publication,
    PublishCounter,
    Tombstone,
    Worker,
)
from filemill.domain.files import Status
from filemill.domain.queues import DEFAULT_QUEUE

# SQLAlchemy would write each of a thousand parameters into the statement; an array is one parameter.
_ids = sa.bindparam("ids", type_=sa.ARRAY(sa.BigInteger))
_keys = sa.bindparam("keys", type_=sa.ARRAY(sa.Text))
_FILES = sa.select(File.id, File.s3_location, File.created_at, File.status, File.run).where(
    File.id == sa.func.any(_ids)
)
_LOCATIONS = sa.select(File.s3_location).where(File.s3_location == sa.func.any(_keys))
_TOMBSTONES = sa.select(Tombstone.file_id).where(Tombstone.file_id == sa.func.any(_ids))
# As literals, so that the planner can use the partial index on unfinished files.
_UNFINISHED = sa.text("status IN (" + ", ".join(f"'{status}'" for status in Status if not status.terminal) + ")")

FileRow = sa.Row[Any]
# A file id and a run.
FileRun = tuple[int, int]


class PublishedPosition(NamedTuple):
    """Where a request was published. `generation` is the number of the topic that had the name then."""

    sequence: int
    partition: int
    offset: int
    generation: int
    queue: str = DEFAULT_QUEUE


def file_page(connection: sa.Connection, after: int, limit: int) -> Sequence[FileRow]:
    """Rows of `files` with ids beyond `after`, by id."""
    page = sa.select(File.__table__).where(File.id > after).order_by(File.id).limit(limit)
    return connection.execute(page).all()


def published_positions(connection: sa.Connection, ids: Collection[int]) -> Mapping[FileRun, PublishedPosition | None]:
    """Where the runs of these files are: a position, None for the outbox, absent for neither."""
    if not ids:
        return {}
    waiting = connection.execute(sa.select(OutboxRow.file_id, OutboxRow.run).where(OutboxRow.file_id.in_(ids)))
    positions: dict[FileRun, PublishedPosition | None] = {(row.file_id, row.run): None for row in waiting}
    published = sa.select(
        Publication.file_id,
        Publication.run,
        Publication.publish_number,
        Publication.partition,
        Publication.offset,
        Publication.generation,
        Publication.queue,
    )
    for row in connection.execute(published.where(Publication.file_id.in_(ids))):
        position = PublishedPosition(row.publish_number, row.partition, row.offset, row.generation, row.queue)
        positions.setdefault((row.file_id, row.run), position)
    return positions


def files_by_id(connection: sa.Connection, ids: Collection[int]) -> dict[int, Any]:
    """Id, location, creation time, status and run of these files."""
    if not ids:
        return {}
    return {row.id: row for row in connection.execute(_FILES, {"ids": list(ids)})}


def known_locations(connection: sa.Connection, keys: Sequence[str]) -> set[str | None]:
    """Those of the keys that are the location of a file."""
    return set(connection.execute(_LOCATIONS, {"keys": keys}).scalars()) if keys else set()


def deleted_ids(connection: sa.Connection, ids: Collection[int]) -> set[int]:
    """Those of the files that were deleted."""
    return set(connection.execute(_TOMBSTONES, {"ids": list(ids)}).scalars()) if ids else set()


def count_deleted(connection: sa.Connection) -> int:
    """The number of deleted files."""
    return connection.execute(sa.select(sa.func.count()).select_from(Tombstone)).scalar_one()


def next_sequence(connection: sa.Connection, queue: str) -> int:
    """The next sequence number of the queue that the relay assigns."""
    query = sa.select(PublishCounter.next_number).where(PublishCounter.queue == queue)
    return connection.execute(query).scalar_one_or_none() or 1


def sequences_of_other_generations(connection: sa.Connection, queue: str, generation: int, least: int) -> set[int]:
    """Sequence numbers from `least` on that were assigned for another topic of the name, or abandoned with one."""
    elsewhere = sa.select(Publication.publish_number).where(
        Publication.queue == queue, Publication.publish_number >= least, Publication.generation != generation
    )
    abandoned = sa.select(AbandonedNumber.publish_number).where(
        AbandonedNumber.queue == queue, AbandonedNumber.publish_number >= least
    )
    return {*connection.execute(elsewhere).scalars(), *connection.execute(abandoned).scalars()}


def unpublished_sequences(
    connection: sa.Connection, queue: str, numbers: Iterable[int]
) -> tuple[set[int], dict[int, PublishedPosition]]:
    """Of these sequence numbers: those in the outbox or abandoned; and the positions of those that were published."""
    # The outbox first: a row moves from it to the publications, never back.
    waiting = sa.select(OutboxRow.publish_number).where(OutboxRow.queue == queue, OutboxRow.publish_number.is_not(None))
    given = sa.bindparam("numbers", sorted(numbers), type_=sa.ARRAY(sa.BigInteger))
    abandoned = sa.select(AbandonedNumber.publish_number).where(
        AbandonedNumber.queue == queue, AbandonedNumber.publish_number == sa.func.any(given)
    )
    published = sa.select(
        Publication.publish_number,
        Publication.partition,
        Publication.offset,
        Publication.generation,
        Publication.queue,
    ).where(Publication.queue == queue, Publication.publish_number == sa.func.any(given))
    found = {number for number in connection.execute(waiting).scalars() if number is not None}
    found.update(connection.execute(abandoned).scalars())
    positions = {row.publish_number: PublishedPosition(*row) for row in connection.execute(published)}
    return found, positions


def unfinished_ids(connection: sa.Connection) -> set[int]:
    """The files that have not ended."""
    return set(connection.execute(sa.select(File.id).where(_UNFINISHED)).scalars())


def count_unfinished(connection: sa.Connection, since_id: int = 0, accepted_until: datetime | None = None) -> int:
    """The number of unfinished files with ids from `since_id` on, accepted until a moment."""
    query = sa.select(sa.func.count()).select_from(File).where(File.id >= since_id, _UNFINISHED)
    if accepted_until is not None:
        query = query.where(File.created_at <= accepted_until)
    return connection.execute(query).scalar_one()


def count_outbox(connection: sa.Connection, last_id: int) -> int:
    """The number of outbox rows of files up to `last_id`."""
    query = sa.select(sa.func.count()).select_from(OutboxRow).where(OutboxRow.file_id <= last_id)
    return connection.execute(query).scalar_one()


def file_timings(
    connection: sa.Connection, after: int, limit: int, within: tuple[datetime, datetime] | None = None
) -> tuple[list[str], Sequence[Any]]:
    """Column names and rows of a page of files, by id, with the moments of each.

    `within` leaves out files that were created after the range, or not changed since it began.
    """
    columns = sa.select(
        File.id,
        File.status,
        File.run,
        File.created_at,
        File.started_at,
        File.finished_at,
        File.updated_at,
        File.worker_id,
        File.kafka_partition,
        File.kafka_offset,
        File.attempt,
    )
    if within is not None:
        columns = columns.where(File.updated_at >= within[0], File.created_at < within[1])
    page = columns.where(File.id > after).order_by(File.id).limit(limit)
    return [column.name for column in columns.selected_columns], connection.execute(page).all()


def worker_vitals(connection: sa.Connection, workers: Collection[str], heard_after: datetime) -> list[dict[str, Any]]:
    """The last vitals of these workers, of those that sent an event after a moment."""
    query = sa.select(Worker.vitals).where(Worker.heard_at > heard_after, Worker.worker_id.in_(workers))
    return [vitals or {} for vitals in connection.execute(query).scalars()]


def owned_partitions(connection: sa.Connection, workers: Collection[str], seconds: float) -> list[list[int]]:
    """The partitions of each of these workers that sent an event within the last seconds."""
    fresh = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    query = sa.select(Worker.body["owned"]).where(Worker.worker_id.in_(workers), Worker.heard_at > fresh)
    return [numbers or [] for numbers in connection.execute(query).scalars()]


def lag_samples(connection: sa.Connection, group: str, since: datetime, until: datetime) -> list[tuple[Any, ...]]:
    """Moment, partition and lag of each sample of a group within a time range."""
    query = (
        sa.select(LagSample.sampled_at, LagSample.partition, LagSample.lag)
        .where(LagSample.group_id == group, LagSample.sampled_at.between(since, until))
        .order_by(LagSample.sampled_at, LagSample.partition)
    )
    return [tuple(row) for row in connection.execute(query)]


def operations_between(
    connection: sa.Connection, since: datetime, until: datetime, faults_since: datetime
) -> Sequence[Any]:
    """Moment, actor, action and detail of each operation in a time range, and of faults since an earlier moment."""
    earlier = sa.and_(Operation.action == "fault", Operation.at > faults_since)
    query = (
        sa.select(Operation.at, Operation.actor, Operation.action, Operation.detail)
        .where(sa.or_(Operation.at >= since, earlier), Operation.at < until)
        .order_by(Operation.at)
    )
    return connection.execute(query).all()
