"""Results of foreign file services, which report neither hash nor size."""

import sqlalchemy as sa

from filemill.adapters.postgres.tables import File


def files_without_hash(connection: sa.Connection, limit: int) -> list[tuple[int, str]]:
    """Id and key of completed files without a hash, least id first."""
    query = (
        sa.select(File.id, File.s3_location)
        .where(File.status == "completed", File.sha256.is_(None), File.s3_location.is_not(None))
        .order_by(File.id)
        .limit(limit)
    )
    return [(row.id, row.s3_location) for row in connection.execute(query)]


def store_hash(connection: sa.Connection, file_id: int, key: str, sha256: str, size: int) -> bool:
    """Store hash and size, unless the row has another key or a hash by now; returns whether it did."""
    row = sa.and_(File.id == file_id, File.s3_location == key, File.sha256.is_(None))
    return connection.execute(sa.update(File).where(row).values(sha256=sha256, size=size)).rowcount > 0
