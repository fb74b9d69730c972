"""Store why a record was rejected as a code, and index the code instead of the text.

Revision: 0014; follows 0013.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, fill it for unknown ids, and replace the index."""
    op.execute("ALTER TABLE rejected_messages ADD COLUMN code text")
    op.execute("UPDATE rejected_messages SET code = 'unknown-file' WHERE reason LIKE 'no file has the id %'")
    op.execute("DROP INDEX rejected_of_unknown_ids")
    op.execute("CREATE INDEX rejected_of_unknown_ids ON rejected_messages (rejected_at) WHERE code = 'unknown-file'")


def downgrade() -> None:
    """Restore the index of the text, and remove the column."""
    op.execute("DROP INDEX rejected_of_unknown_ids")
    op.execute("""
        CREATE INDEX rejected_of_unknown_ids ON rejected_messages (rejected_at)
        WHERE reason LIKE 'no file has the id %'
    """)
    op.execute("ALTER TABLE rejected_messages DROP COLUMN code")
