"""The files that objects belong to, for the deletion of objects that nothing needs."""

from collections.abc import Sequence

import sqlalchemy as sa

from filemill.domain.files import Status
from filemill.domain.leftovers import FileEnd

_FILES = sa.text("SELECT id, status, run, s3_location FROM files WHERE id = ANY(CAST(:ids AS bigint[]))")
_DELETED = sa.text("SELECT file_id FROM tombstones WHERE file_id = ANY(CAST(:ids AS bigint[]))")


def file_ends(connection: sa.Connection, ids: Sequence[int]) -> dict[int, FileEnd | None]:
    """Status, run and location of these files by id; None for a deleted one. Unknown ids are absent."""
    # Tombstones first: a file that is deleted in between is in one of the two.
    found: dict[int, FileEnd | None] = dict.fromkeys(connection.execute(_DELETED, {"ids": list(ids)}).scalars())
    for row in connection.execute(_FILES, {"ids": list(ids)}):
        found[row.id] = FileEnd(Status(row.status), row.run, row.s3_location)
    return found
