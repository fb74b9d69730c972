"""Accepting a request once, however often it is sent with the same key.

The key and the request's rows are one transaction: there is no key without its request, and no request that a key lost.
Who sends the same key meanwhile waits for that transaction, and then gets its answer.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.connection import Undone
from filemill.adapters.postgres.file_rows import FileRow
from filemill.adapters.postgres.outbox import submit, submit_many
from filemill.domain.files import NewFile, Status
from filemill.domain.idempotency import KEPT, KeyReused, fingerprint, key_hash

_CLAIM = sa.text("""
    INSERT INTO idempotency_keys AS known (key_hash, fingerprint) VALUES (:key, :fingerprint)
    ON CONFLICT (key_hash) DO UPDATE
        SET fingerprint = excluded.fingerprint, ids = '{}', requested_at = NULL, created_at = now()
        WHERE known.created_at < now() - CAST(:kept AS interval)
    RETURNING key_hash
""")
_KNOWN = sa.text("SELECT fingerprint, ids, requested_at, created_at FROM idempotency_keys WHERE key_hash = :key")
_NOTE = sa.text("UPDATE idempotency_keys SET ids = :ids, requested_at = :requested_at WHERE key_hash = :key")


class _Known(msgspec.Struct, frozen=True):
    """What a key was accepted for, and when."""

    fingerprint: str
    ids: list[int]
    requested_at: datetime | None
    created_at: datetime


def submit_once(
    connection: sa.Connection, key: str, file: NewFile, *, traceparent: str | None = None
) -> tuple[FileRow, bool]:
    """Accept a request in the caller's transaction, or find that it was; returns its row as accepted, and which it is.

    True: it was accepted before. Raises idempotency.KeyReused where the key came with another request.
    """
    known = _claim(connection, key, [file])
    if known is not None:
        return _row_then(known, file), True
    row = submit(connection, file, traceparent=traceparent)
    connection.execute(_NOTE, {"key": key_hash(key), "ids": [row.id], "requested_at": row.created_at})
    return row, False


def submit_many_once(connection: sa.Connection, key: str, files: Sequence[NewFile]) -> list[int]:
    """Accept many requests in the caller's transaction, or find that they were; returns their ids.

    Raises idempotency.KeyReused where the key came with other requests.
    """
    known = _claim(connection, key, files)
    if known is not None:
        return known.ids
    ids = submit_many(connection, files)
    connection.execute(_NOTE, {"key": key_hash(key), "ids": ids, "requested_at": None})
    return ids


def _claim(connection: sa.Connection, key: str, files: Sequence[NewFile]) -> _Known | None:
    """Take the key for a request; what it was taken for before, if it was."""
    wanted = {"key": key_hash(key), "fingerprint": fingerprint(files), "kept": KEPT}
    if connection.execute(_CLAIM, wanted).one_or_none() is not None:
        return None
    row = connection.execute(_KNOWN, wanted).one_or_none()
    if row is None:  # it was removed in between, for its time was over
        raise Undone("an idempotency key expired while it was looked up")
    known = _Known(*row)
    if known.fingerprint != wanted["fingerprint"]:
        raise KeyReused
    return known


def _row_then(known: _Known, file: NewFile) -> FileRow:
    """The row as it was when it was accepted: it may have changed since, or be deleted."""
    assert known.requested_at is not None
    return FileRow(
        id=known.ids[0],
        title=file.title,
        description=file.description,
        status=Status.PENDING,
        s3_location=None,
        created_at=known.requested_at,
        updated_at=known.created_at,
        run=1,
        worker_id=None,
        partition=None,
        offset=None,
        attempt=None,
        step=None,
        steps=None,
        started_at=None,
        finished_at=None,
        sha256=None,
        size=None,
        error=None,
    )
