"""The owner of each file: who submitted it. Null for files of earlier versions.

The index has only files of accounts: other principals have a colon in their names, and nobody filters by those.

Revision: 0025; follows 0024.
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the index."""
    op.execute("ALTER TABLE files ADD COLUMN owner text")
    op.execute("ALTER TABLE tombstones ADD COLUMN owner text")
    op.execute("CREATE INDEX files_by_owner ON files (owner, id) WHERE strpos(owner, ':') = 0")


def downgrade() -> None:
    """Remove the index and the columns."""
    op.execute("DROP INDEX files_by_owner")
    op.execute("ALTER TABLE tombstones DROP COLUMN owner")
    op.execute("ALTER TABLE files DROP COLUMN owner")
