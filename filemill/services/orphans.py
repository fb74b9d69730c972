"""Objects that no row and no tombstone owns: what was made for a record whose file id is unknown.

A request's row is committed before its record exists, so an id that no row has is nobody's, with one exception: a
database that was restored from a backup has lost its newest rows, and their objects are the last that is left of those
files. Such ids lie beyond the newest that the database has given. They are deleted only when that is asked for.
"""

import enum
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from filemill.services.audit import record
from filemill.adapters.postgres.tables import File, Tombstone
from filemill.adapters.s3.admin import boto_errors, list_objects
from filemill.config.settings import Settings
from filemill.domain.files import file_id_in_key
from filemill.ports import StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# What the record of a deletion names; the count is of all.
KEYS_ON_RECORD = 100

# Whole arrays: of a thousand parameters SQLAlchemy would write each into the statement.
_ids = sa.bindparam("ids", type_=sa.ARRAY(sa.BigInteger))
_keys = sa.bindparam("keys", type_=sa.ARRAY(sa.Text))
_OWNERS = sa.union(
    sa.select(File.id).where(File.id == sa.func.any(_ids)),
    sa.select(Tombstone.file_id).where(Tombstone.file_id == sa.func.any(_ids)),
)
_LOCATIONS = sa.select(File.s3_location).where(File.s3_location == sa.func.any(_keys))
_NEWEST = sa.text("""
    SELECT greatest(
        (SELECT coalesce(max(id), 0) FROM files), (SELECT coalesce(max(file_id), 0) FROM tombstones),
        (SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('files', 'id')), 0))
    )
""")


class Kind(enum.StrEnum):
    """Why nobody owns an object."""

    UNKNOWN_ID = "unknown id"
    ID_NOT_GIVEN = "id not given yet"
    OTHER_KEY = "not a key of filemill"


class Orphan(msgspec.Struct, frozen=True):
    """An object that nobody owns."""

    key: str
    size: int
    kind: Kind


class Deletion(msgspec.Struct, frozen=True):
    """What was deleted, or would be in a dry run, and what was kept: objects that this must not delete."""

    deleted: list[Orphan]
    kept: list[Orphan]
    dry_run: bool


class Orphans:
    """Lists and deletes them. Raises Unavailable."""

    def __init__(self, settings: Settings, engine: sa.Engine, s3: "S3Client") -> None:
        self._settings = settings
        self._engine = engine
        self._s3 = s3

    def find(self) -> Iterator[Orphan]:
        """All of the bucket, by key."""
        for page in list_objects(self._settings):
            yield from self._among(page)

    def delete(self, actor: str, *, dry_run: bool, ids_not_given: bool = False) -> Deletion:
        """Delete those with a key of ours; with `ids_not_given`, also those beyond the newest id.

        An object with another key may be one that a foreign file service has stored and not announced yet, and is kept.
        Each page of the bucket is compared with the rows just before its objects are deleted.
        """
        wanted = {Kind.UNKNOWN_ID, Kind.ID_NOT_GIVEN} if ids_not_given else {Kind.UNKNOWN_ID}
        deleted: list[Orphan] = []
        kept: list[Orphan] = []
        try:
            for orphan in self.find():
                if orphan.kind not in wanted:
                    kept.append(orphan)
                    continue
                if not dry_run:
                    with boto_errors(self._settings):
                        self._s3.delete_object(Bucket=self._settings.s3_bucket, Key=orphan.key)
                deleted.append(orphan)
        finally:
            if deleted and not dry_run:
                keys = [orphan.key for orphan in deleted[:KEYS_ON_RECORD]]
                size = sum(orphan.size for orphan in deleted)
                with self._engine.begin() as connection:
                    record(connection, actor, "orphans.delete", {"count": len(deleted), "bytes": size, "keys": keys})
        return Deletion(deleted, kept, dry_run)

    def _among(self, page: Sequence[StoredObject]) -> list[Orphan]:
        ids = sorted({file_id for one in page if (file_id := file_id_in_key(one.key)) is not None})
        with self._engine.connect() as connection:
            owned = set(connection.execute(_OWNERS, {"ids": ids}).scalars())
            suspects = [one for one in page if file_id_in_key(one.key) not in owned]
            keys = [one.key for one in suspects]
            located = set(connection.execute(_LOCATIONS, {"keys": keys}).scalars()) if keys else set()
            newest = connection.execute(_NEWEST).scalar_one()
        return [Orphan(one.key, one.size, _kind(one.key, newest)) for one in suspects if one.key not in located]


def _kind(key: str, newest: int) -> Kind:
    file_id = file_id_in_key(key)
    if file_id is None:
        return Kind.OTHER_KEY
    return Kind.ID_NOT_GIVEN if file_id > newest else Kind.UNKNOWN_ID
