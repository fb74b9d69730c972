"""Every object of the bucket against the rows."""

from collections.abc import Sequence

import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, Tombstone
from filemill.domain.files import Status, file_id_in_key, object_key
from filemill.ports import ObjectStore, StoredObject
from filemill.verification.report import Report

# Whole arrays: of a thousand parameters SQLAlchemy would write each into the statement.
_ids = sa.bindparam("ids", type_=sa.ARRAY(sa.BigInteger))
_keys = sa.bindparam("keys", type_=sa.ARRAY(sa.Text))
_ROWS = sa.select(File.id, File.s3_location, File.created_at, File.status).where(File.id == sa.func.any(_ids))
_LOCATIONS = sa.select(File.s3_location).where(File.s3_location == sa.func.any(_keys))
_TOMBSTONES = sa.select(Tombstone.file_id).where(Tombstone.file_id == sa.func.any(_ids))


async def check_bucket(engine: sa.Engine, store: ObjectStore, report: Report) -> None:
    """List the bucket once. Raises Unavailable."""
    async for page in store.list():
        report.objects += len(page)
        _check_page(engine, page, report)


def _check_page(engine: sa.Engine, page: Sequence[StoredObject], report: Report) -> None:
    keys = [entry.key for entry in page]
    ids = {file_id for key in keys if (file_id := file_id_in_key(key)) is not None}
    # Keys that are not of our form may be a foreign service's: only then is the table searched by location.
    strange = [key for key in keys if file_id_in_key(key) is None]
    with engine.connect() as connection:
        rows = {row.id: row for row in connection.execute(_ROWS, {"ids": list(ids)})} if ids else {}
        known = set(connection.execute(_LOCATIONS, {"keys": strange}).scalars()) if strange else set()
        gone = list(ids - rows.keys())
        deleted = set(connection.execute(_TOMBSTONES, {"ids": gone}).scalars()) if gone else set()
    for key in keys:
        file_id = file_id_in_key(key)
        row = rows.get(file_id) if file_id is not None else None
        if row is None:
            if file_id in deleted:
                report.superseded += 1  # its row went first, and S3 was away
            elif key not in known:
                report.add_finding("orphan-object", key)
        elif key != (row.s3_location or object_key(row.id, row.created_at)) or row.status == Status.CANCELLED:
            # Beyond the row's own: an earlier run's, a foreign service's second answer, one that lost to a cancel.
            report.superseded += 1
