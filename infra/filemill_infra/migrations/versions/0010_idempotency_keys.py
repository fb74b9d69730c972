"""Create idempotency keys, which make it safe to repeat a request for 24 hours.

Revision: 0010; follows 0009.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.execute("""
        CREATE TABLE idempotency_keys (
            key_hash text PRIMARY KEY,
            fingerprint text NOT NULL,
            ids bigint[] NOT NULL DEFAULT '{}',
            requested_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX idempotency_keys_by_time ON idempotency_keys (created_at);
    """)


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP TABLE idempotency_keys")
