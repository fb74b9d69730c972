"""Index titles by trigrams, so that a search for any part of a title does not scan the table.

Revision: 0003; follows 0002.

If the extension is not available (a server without the contrib modules, a user without the privilege), there is no
index and a search scans the table. To add it later: `CREATE EXTENSION pg_trgm`, then the index below.
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
    """Add the index, if the extension is available."""
    op.execute(INDEX)


def downgrade() -> None:
    """Remove the index; the extension may have other users."""
    op.execute("DROP INDEX IF EXISTS files_by_title")
