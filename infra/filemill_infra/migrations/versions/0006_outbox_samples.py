"""Create samples of the outbox: its depth and the age of its oldest request.

Revision: 0006; follows 0005.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.execute("""
        CREATE TABLE outbox_samples (
            sampled_at timestamptz PRIMARY KEY,
            depth bigint NOT NULL,
            oldest_age_seconds double precision
        )
    """)


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP TABLE outbox_samples")
