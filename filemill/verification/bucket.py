"""Every object of the bucket against the rows."""

from collections.abc import Sequence

import sqlalchemy as sa

from filemill.adapters.tables import File, Tombstone
from filemill.files import Status, file_id_of, object_key
from filemill.ports import ObjectStore, StoredObject
from filemill.verification.report import Report


async def check_bucket(engine: sa.Engine, store: ObjectStore, report: Report) -> None:
    """List the bucket once. Raises retry.Unavailable."""
    async for page in store.list():
        report.objects += len(page)
        _check_page(engine, page, report)


def _check_page(engine: sa.Engine, page: Sequence[StoredObject], report: Report) -> None:
    keys = [entry.key for entry in page]
    ids = {file_id for key in keys if (file_id := file_id_of(key)) is not None}
    # Keys that are not of our form may be a foreign service's: only then is the table searched by location.
    strange = [key for key in keys if file_id_of(key) is None]
    with engine.connect() as connection:
        columns = sa.select(File.id, File.s3_location, File.created_at, File.status)
        rows = {row.id: row for row in connection.execute(columns.where(File.id.in_(ids)))} if ids else {}
        named = sa.select(File.s3_location).where(File.s3_location.in_(strange))
        known = set(connection.execute(named).scalars()) if strange else set()
        buried = sa.select(Tombstone.file_id).where(Tombstone.file_id.in_(ids - rows.keys()))
        deleted = set(connection.execute(buried).scalars()) if ids - rows.keys() else set()
    for key in keys:
        file_id = file_id_of(key)
        row = rows.get(file_id) if file_id is not None else None
        if row is None:
            if file_id in deleted:
                report.superseded += 1  # its row went first, and S3 was away
            elif key not in known:
                report.found("orphan-object", key)
        elif key != (row.s3_location or object_key(row.id, row.created_at)) or row.status == Status.CANCELLED:
            # Beyond the row's own: an earlier run's, a foreign service's second answer, one that lost to a cancel.
            report.superseded += 1
