"""What each person or address has used of the limits of submissions, and an index for the files in flight.

The index leaves out files of REST without sign-in: limits are off there, and their senders should pay for no index.

Revision: 0026; follows 0025.
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and the indexes."""
    op.execute("""
        CREATE TABLE limit_usage (
            key text PRIMARY KEY,
            next_at double precision NOT NULL DEFAULT 0,
            day date NOT NULL DEFAULT '1970-01-01',
            bytes bigint NOT NULL DEFAULT 0,
            used_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX limit_usage_by_time ON limit_usage (used_at);
        CREATE INDEX files_in_flight_by_owner ON files (owner)
            WHERE status IN ('pending', 'processing') AND strpos(owner, 'rest:') <> 1;
    """)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP INDEX files_in_flight_by_owner; DROP TABLE limit_usage")
