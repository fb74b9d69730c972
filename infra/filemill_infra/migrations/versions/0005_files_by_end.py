"""Index finished files by their end, for rates of the last minutes.

Revision: 0005; follows 0004. The index is partial: it has no entries for unfinished files.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.execute("CREATE INDEX files_by_end ON files (finished_at) WHERE finished_at IS NOT NULL")


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP INDEX files_by_end")
