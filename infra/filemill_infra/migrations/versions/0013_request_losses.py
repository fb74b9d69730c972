"""Create the group monitor's last count of requests that are missing in Kafka.

Revision: 0013; follows 0012.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.execute("""
        CREATE TABLE request_losses (
            group_id text PRIMARY KEY,
            requests bigint NOT NULL,
            counted_at timestamptz NOT NULL
        )
    """)


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP TABLE request_losses")
