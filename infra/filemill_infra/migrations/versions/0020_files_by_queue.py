"""Find the files of a queue, and keep handler and queue of deleted files for the figures of past throughput.

Files of the queue `default` need no index: nearly all files of a list are of it.

Revision: 0020; follows 0019.
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index and the columns."""
    op.execute("CREATE INDEX files_by_queue ON files (queue, id) WHERE queue <> 'default'")
    op.execute("""
        ALTER TABLE tombstones
            ADD COLUMN handler text NOT NULL DEFAULT 'text', ADD COLUMN queue text NOT NULL DEFAULT 'default'
    """)


def downgrade() -> None:
    """Remove the columns and the index."""
    op.execute("ALTER TABLE tombstones DROP COLUMN handler, DROP COLUMN queue")
    op.execute("DROP INDEX files_by_queue")
