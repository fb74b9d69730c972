"""Which objects have an owner: a row, or the tombstone of a deleted file."""

from collections.abc import Sequence

import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, Tombstone

# Whole arrays: SQLAlchemy would write each of a thousand parameters into the statement.
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


def known_ids(connection: sa.Connection, ids: Sequence[int]) -> set[int]:
    """Those of the ids that a row or a tombstone has."""
    return set(connection.execute(_OWNERS, {"ids": list(ids)}).scalars())


def known_keys(connection: sa.Connection, keys: Sequence[str]) -> set[str]:
    """Those of the keys that are the `s3_location` of a row."""
    if not keys:
        return set()
    found = connection.execute(_LOCATIONS, {"keys": list(keys)}).scalars()
    return {key for key in found if key is not None}


def newest_given_id(connection: sa.Connection) -> int:
    """The greatest id that the database has ever given to a file; 0 if none."""
    return int(connection.execute(_NEWEST).scalar_one())
