"""Which session at its provider a session belongs to, so that a back-channel logout can end it.

Revision: 0027; follows 0026.
"""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE sessions ADD COLUMN provider_session text")


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE sessions DROP COLUMN provider_session")
