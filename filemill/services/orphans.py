"""Objects that no row and no tombstone owns: results of records whose file id is unknown.

A request's row is committed before its record exists, so an id without a row belongs to no request. There is one
exception: a database that was restored from a backup lacks its newest rows, and their objects are the last trace of
those files. Such ids are greater than the newest that the database has given. Their objects are deleted only on demand.
"""

import enum
from collections.abc import Iterator, Sequence

import msgspec
import sqlalchemy as sa

from filemill.adapters.s3.bucket import Bucket
from filemill.domain.files import file_id_in_key
from filemill.domain.permissions import Permission, Principal
from filemill.errors import NotFound
from filemill.ports import StoredObject
from filemill.queries.orphans import known_ids, known_keys, newest_given_id
from filemill.services.access import authorize
from filemill.services.audit import record

# The most keys that an audit record names; its count is of all.
KEYS_RECORDED = 100


class OrphanKind(enum.StrEnum):
    """Why an object has no owner."""

    UNKNOWN_ID = "unknown id"
    ID_NOT_GIVEN = "id not given yet"
    OTHER_KEY = "not a key of filemill"


class Orphan(msgspec.Struct, frozen=True):
    """An object that belongs to no file."""

    key: str
    size: int
    kind: OrphanKind


class OrphanDeletion(msgspec.Struct, frozen=True):
    """The orphans that were deleted (in a dry run: would be), and those that were kept."""

    deleted: list[Orphan]
    kept: list[Orphan]
    dry_run: bool


class Orphans:
    """Lists and deletes orphans. Raises Unavailable."""

    def __init__(self, engine: sa.Engine, bucket: Bucket) -> None:
        self._engine = engine
        self._bucket = bucket

    def find(self) -> Iterator[Orphan]:
        """All orphans of the bucket, by key."""
        for page in self._bucket.list():
            yield from self._among(page)

    def delete(self, principal: Principal, *, dry_run: bool, ids_not_given: bool = False) -> OrphanDeletion:
        """Delete the orphans with a key of filemill; with `ids_not_given`, also those with an id not given yet.

        An orphan with another key is kept: a foreign file service may have stored it and not announced it yet. Each
        page of the bucket is compared with the rows just before its objects are deleted. Raises Forbidden.
        """
        authorize(self._engine, principal, Permission.DELETE_ORPHANS)
        kinds = {OrphanKind.UNKNOWN_ID, OrphanKind.ID_NOT_GIVEN} if ids_not_given else {OrphanKind.UNKNOWN_ID}
        deleted: list[Orphan] = []
        kept: list[Orphan] = []
        try:
            for orphan in self.find():
                if orphan.kind not in kinds:
                    kept.append(orphan)
                    continue
                try:
                    if not dry_run:
                        self._bucket.delete(orphan.key)
                except NotFound:  # the service refuses the key
                    kept.append(orphan)
                else:
                    deleted.append(orphan)
        finally:
            if deleted and not dry_run:
                keys = [orphan.key for orphan in deleted[:KEYS_RECORDED]]
                size = sum(orphan.size for orphan in deleted)
                with self._engine.begin() as connection:
                    record(
                        connection, principal, "orphans.delete", {"count": len(deleted), "bytes": size, "keys": keys}
                    )
        return OrphanDeletion(deleted, kept, dry_run)

    def _among(self, page: Sequence[StoredObject]) -> list[Orphan]:
        ids = sorted({file_id for one in page if (file_id := file_id_in_key(one.key)) is not None})
        with self._engine.connect() as connection:
            owned = known_ids(connection, ids)
            candidates = [one for one in page if file_id_in_key(one.key) not in owned]
            located = known_keys(connection, [one.key for one in candidates])
            newest = newest_given_id(connection)
        return [Orphan(one.key, one.size, _kind(one.key, newest)) for one in candidates if one.key not in located]


def _kind(key: str, newest: int) -> OrphanKind:
    file_id = file_id_in_key(key)
    if file_id is None:
        return OrphanKind.OTHER_KEY
    return OrphanKind.ID_NOT_GIVEN if file_id > newest else OrphanKind.UNKNOWN_ID
