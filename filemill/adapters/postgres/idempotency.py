"""Idempotency keys: which requests came with a key, and which ids they got.

The caller claims the key, inserts the requests and stores their ids in one transaction. A concurrent transaction with
the same key waits until it ends.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.connection import TransactionRolledBack
from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.files import NewFile, Status
from filemill.domain.idempotency import KEY_RETENTION, KeyReused, fingerprint, key_hash

_CLAIM = sa.text("""
    INSERT INTO idempotency_keys AS known (key_hash, fingerprint) VALUES (:key, :fingerprint)
    ON CONFLICT (key_hash) DO UPDATE
        SET fingerprint = excluded.fingerprint, ids = '{}', requested_at = NULL, created_at = now()
        WHERE known.created_at < now() - CAST(:kept AS interval)
    RETURNING key_hash
""")
_KNOWN = sa.text("SELECT fingerprint, ids, requested_at, created_at FROM idempotency_keys WHERE key_hash = :key")
_STORE_IDS = sa.text("UPDATE idempotency_keys SET ids = :ids, requested_at = :requested_at WHERE key_hash = :key")


class KnownRequest(msgspec.Struct, frozen=True):
    """What a key was claimed for, and when."""

    fingerprint: str
    ids: list[int]
    requested_at: datetime | None
    created_at: datetime


def claim_key(connection: sa.Connection, key: str, files: Sequence[NewFile]) -> KnownRequest | None:
    """Claim the key for these requests; returns None, or what it was claimed for before.

    Raises KeyReused, TransactionRolledBack.
    """
    wanted = {"key": key_hash(key), "fingerprint": fingerprint(files), "kept": KEY_RETENTION}
    if connection.execute(_CLAIM, wanted).one_or_none() is not None:
        return None
    row = connection.execute(_KNOWN, wanted).one_or_none()
    if row is None:  # it expired and was deleted in between
        raise TransactionRolledBack("an idempotency key expired while it was looked up")
    known = KnownRequest(*row)
    if known.fingerprint != wanted["fingerprint"]:
        raise KeyReused
    return known


def store_ids(connection: sa.Connection, key: str, ids: Sequence[int], *, requested_at: datetime | None = None) -> None:
    """Store the ids that the requests of a claimed key got; `requested_at` of a single request is its row's."""
    connection.execute(_STORE_IDS, {"key": key_hash(key), "ids": list(ids), "requested_at": requested_at})


def row_as_accepted(known: KnownRequest, file: NewFile, queue: str, owner: str) -> FileRow:
    """The row of the key's owner as it was when it was accepted. Since then it may have changed or been deleted."""
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
        handler=file.handler,
        queue=queue,
        owner=owner,
    )
