"""Index rejected results with an unknown file id.

Revision: 0011; follows 0010.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.execute("""
        CREATE INDEX rejected_of_unknown_ids ON rejected_messages (rejected_at)
        WHERE reason LIKE 'no file has the id %'
    """)


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP INDEX rejected_of_unknown_ids")
