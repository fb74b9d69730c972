"""Index operations by their details, to find those of a file by its id.

Revision: 0004; follows 0003.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.execute("CREATE INDEX operations_by_detail ON operations USING gin (detail jsonb_path_ops)")


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP INDEX operations_by_detail")
