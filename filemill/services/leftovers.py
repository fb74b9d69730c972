"""Lists and deletes objects of files that nothing needs any more, and aborts multipart uploads that were left open."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec
import sqlalchemy as sa

from filemill.adapters.s3.bucket import Bucket
from filemill.domain.files import file_id_in_key
from filemill.domain.leftovers import FileEnd, LeftoverKind, leftover_kind
from filemill.domain.permissions import Permission, Principal
from filemill.errors import NotFound
from filemill.ports import StoredObject
from filemill.queries.leftovers import file_ends
from filemill.services.access import authorize
from filemill.services.audit import record

# The most keys that an audit record names; its count is of all.
KEYS_RECORDED = 100
# A younger upload may be one that a worker is completing.
UPLOAD_AGE = timedelta(hours=1)


class Leftover(msgspec.Struct, frozen=True):
    """An object that nothing needs."""

    key: str
    size: int
    kind: LeftoverKind


class LeftUpload(msgspec.Struct, frozen=True):
    """A multipart upload of an ended file that was left open."""

    key: str
    upload_id: str
    begun_at: datetime


class Cleaning(msgspec.Struct, frozen=True):
    """What was removed; in a dry run: what would be. The bytes are those of the objects."""

    objects: list[Leftover]
    uploads: list[LeftUpload]
    bytes: int
    dry_run: bool


class Uploads(Protocol):
    """The multipart uploads of the bucket."""

    def abort(self, key: str, upload_id: str) -> None:
        """Discard an upload. Raises Unavailable."""


class Leftovers:
    """Lists and removes what nothing needs. Raises Unavailable."""

    def __init__(
        self,
        engine: sa.Engine,
        bucket: Bucket,
        uploads: Uploads,
        open_uploads: Callable[[], Iterator[LeftUpload]],
    ) -> None:
        self._engine = engine
        self._bucket = bucket
        self._uploads = uploads
        self._open_uploads = open_uploads

    def clean(self, principal: Principal, *, dry_run: bool) -> Cleaning:
        """Delete the objects and abort the uploads. Raises Forbidden.

        Each page of the bucket is compared with the rows just before its objects are deleted. Uploads are aborted if
        their file has ended and they are older than `UPLOAD_AGE`.
        """
        authorize(self._engine, principal, Permission.DELETE_ORPHANS)
        objects: list[Leftover] = []
        uploads: list[LeftUpload] = []
        try:
            for page in self._bucket.list():
                # Not a list: if S3 fails, those that were deleted are recorded.
                objects.extend(one for one in self._among(page) if dry_run or self._deleted(one.key))
            for upload in self._ended(list(self._open_uploads())):
                if not dry_run:
                    self._uploads.abort(upload.key, upload.upload_id)
                uploads.append(upload)
        finally:
            if (objects or uploads) and not dry_run:
                self._record(principal, objects, uploads)
        return Cleaning(objects, uploads, sum(one.size for one in objects), dry_run)

    def _among(self, page: Sequence[StoredObject]) -> list[Leftover]:
        files = self._files([one.key for one in page])
        found = []
        for one in page:
            file_id = file_id_in_key(one.key)
            if file_id in files and (kind := leftover_kind(one.key, files[file_id])) is not None:
                found.append(Leftover(one.key, one.size, kind))
        return found

    def _ended(self, uploads: Sequence[LeftUpload]) -> list[LeftUpload]:
        files = self._files([one.key for one in uploads])
        before = datetime.now(UTC) - UPLOAD_AGE
        found = []
        for one in uploads:
            file_id = file_id_in_key(one.key)
            file = files.get(file_id) if file_id is not None else None
            if file_id in files and (file is None or file.status.terminal) and one.begun_at < before:
                found.append(one)
        return found

    def _files(self, keys: Sequence[str]) -> dict[int, FileEnd | None]:
        ids = sorted({file_id for key in keys if (file_id := file_id_in_key(key)) is not None})
        with self._engine.connect() as connection:
            return file_ends(connection, ids)

    def _deleted(self, key: str) -> bool:
        try:
            self._bucket.delete(key)
        except NotFound:  # the service refuses the key
            return False
        return True

    def _record(self, principal: Principal, objects: Sequence[Leftover], uploads: Sequence[LeftUpload]) -> None:
        detail = {
            "count": len(objects),
            "bytes": sum(one.size for one in objects),
            "keys": [one.key for one in objects[:KEYS_RECORDED]],
            "uploads": [one.key for one in uploads[:KEYS_RECORDED]],
        }
        with self._engine.begin() as connection:
            record(connection, principal, "objects.clean", detail)
