"""Index starts of workers by time: charts mark a start with another version.

Revision: 0007; follows 0006. The index is partial, because few events are starts.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.execute("CREATE INDEX worker_events_of_starts ON worker_events (at) WHERE kind = 'started'")


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP INDEX worker_events_of_starts")
