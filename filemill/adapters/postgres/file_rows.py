"""A row of `files`, as pages, REST and the command line show it."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File
from filemill.domain.files import Status


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A file. The seven columns of the reference design come first; times are UTC, `size` is in bytes.

    `content_type` None: the text of the reference design. `fraction` (0 to 1) and `message` are the progress that the
    handler reported last. `owner`: who submitted it.
    """

    id: int
    title: str
    description: str
    status: Status
    s3_location: str | None
    created_at: datetime
    updated_at: datetime
    run: int
    worker_id: str | None
    partition: int | None
    offset: int | None
    attempt: int | None
    step: int | None
    steps: int | None
    started_at: datetime | None
    finished_at: datetime | None
    sha256: str | None
    size: int | None
    error: str | None
    handler: str = "text"
    queue: str = "default"
    content_type: str | None = None
    fraction: float | None = None
    message: str | None = None
    owner: str | None = None


COLUMNS: tuple[sa.SQLColumnExpression[Any], ...] = (
    File.id,
    File.title,
    File.description,
    File.status,
    File.s3_location,
    File.created_at,
    File.updated_at,
    File.run,
    File.worker_id,
    File.kafka_partition,
    File.kafka_offset,
    File.attempt,
    File.step,
    File.steps,
    File.started_at,
    File.finished_at,
    File.sha256,
    File.size,
    File.error,
    File.handler,
    File.queue,
    File.content_type,
    File.fraction,
    File.message,
    File.owner,
)


# The columns' names in the table, in the order that `file_row` expects.
COLUMN_NAMES = tuple(column.expression.name for column in COLUMNS)  # type: ignore[attr-defined]


FIELDS = FileRow.__struct_fields__


def file_row(row: Sequence[Any]) -> FileRow:
    """A file from its columns, in the order of COLUMN_NAMES; further columns are ignored."""
    values = dict(zip(FIELDS, row, strict=False))
    return FileRow(**{**values, "status": Status(values["status"])})


def locations_of_owner(connection: sa.Connection, ids: Collection[int], owner: str) -> set[str]:
    """The keys of the results of those of these files that are completed and of this owner."""
    if not ids:
        return set()
    query = sa.select(File.s3_location).where(File.id.in_(ids), File.owner == owner, File.status == Status.COMPLETED)
    return {key for key in connection.execute(query).scalars() if key is not None}
