"""Titles can be searched by any part of them without reading the table.

Revision: 0003; follows 0002.

Where the extension cannot be had (a server without the contrib modules, a user who may not create it), the index is
left out and a search reads the table, as before. To have it later: `CREATE EXTENSION pg_trgm`, then the index below.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEX = """
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    CREATE INDEX files_by_title ON files USING gin (title gin_trgm_ops);
EXCEPTION WHEN insufficient_privilege OR undefined_file OR feature_not_supported OR undefined_object THEN
    RAISE NOTICE 'no index on titles: %', SQLERRM;
END $$
"""


def upgrade() -> None:
    """Add the index, where it can be."""
    op.execute(INDEX)


def downgrade() -> None:
    """Remove the index; the extension may be somebody else's by now."""
    op.execute("DROP INDEX IF EXISTS files_by_title")
