"""Checks every object of the bucket against the rows."""

from collections.abc import Sequence

import sqlalchemy as sa

from filemill.domain.files import Status, file_id_in_key, object_key
from filemill.domain.leftovers import FileEnd
from filemill.ports import ObjectStore, StoredObject
from filemill.queries.verification import deleted_ids, files_by_id, known_locations
from filemill.verification.findings import FindingCode
from filemill.verification.leftovers import LeftoverCounts
from filemill.verification.report import VerificationReport


async def check_bucket(engine: sa.Engine, store: ObjectStore, report: VerificationReport) -> None:
    """List the bucket once. Raises Unavailable."""
    leftovers = LeftoverCounts()
    async for page in store.list():
        report.objects += len(page)
        _check_page(engine, page, report, leftovers)
    leftovers.add_note(report)


def _check_page(
    engine: sa.Engine, page: Sequence[StoredObject], report: VerificationReport, leftovers: LeftoverCounts
) -> None:
    keys = [entry.key for entry in page]
    ids = {file_id for key in keys if (file_id := file_id_in_key(key)) is not None}
    # A foreign service may use keys of another form. Only these are looked up by location.
    foreign = [key for key in keys if file_id_in_key(key) is None]
    with engine.connect() as connection:
        rows = files_by_id(connection, ids)
        known = known_locations(connection, foreign)
        deleted = deleted_ids(connection, ids - rows.keys())
    for key in keys:
        file_id = file_id_in_key(key)
        row = rows.get(file_id) if file_id is not None else None
        if row is None:
            if file_id in deleted:
                report.superseded += 1  # its row was deleted while S3 was unreachable
                leftovers.add(key, None)
            elif key not in known:
                report.add_finding(FindingCode.ORPHAN_OBJECT, key)
        elif key != (row.s3_location or object_key(row.id, row.created_at)) or row.status == Status.CANCELLED:
            # An object of an earlier run, a second answer of a foreign service, or one that lost to a cancel.
            report.superseded += 1
            leftovers.add(key, FileEnd(Status(row.status), row.run, row.s3_location))
