"""Create the dismissals of dead letters.

Revision: 0019; follows 0018.
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.execute("""
        CREATE TABLE dead_letter_dismissals (
            partition bigint NOT NULL,
            "offset" bigint NOT NULL,
            timestamp_ms bigint NOT NULL,
            dismissed_at timestamptz NOT NULL DEFAULT now(),
            actor text NOT NULL,
            PRIMARY KEY (partition, "offset")
        )
    """)


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP TABLE dead_letter_dismissals")
