"""Accounts of people who sign in at an OpenID Connect provider, and the sign-ins that have begun.

Revision: 0024; follows 0023.
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table."""
    op.execute("""
        ALTER TABLE accounts
            ALTER COLUMN password_hash DROP NOT NULL,
            ADD COLUMN issuer text,
            ADD COLUMN subject text,
            ADD CONSTRAINT accounts_identity UNIQUE (issuer, subject),
            ADD CONSTRAINT accounts_credential CHECK (
                (issuer IS NULL) = (subject IS NULL) AND (issuer IS NULL) = (password_hash IS NOT NULL)
            );
        CREATE TABLE sign_in_attempts (
            key bytea PRIMARY KEY,
            provider text NOT NULL,
            expires_at timestamptz NOT NULL
        );
        CREATE INDEX sign_in_attempts_by_expiry ON sign_in_attempts (expires_at);
    """)


def downgrade() -> None:
    """Drop what was added, with the accounts of providers."""
    op.execute("""
        DROP TABLE sign_in_attempts;
        DELETE FROM accounts WHERE issuer IS NOT NULL;
        ALTER TABLE accounts
            DROP CONSTRAINT accounts_credential,
            DROP CONSTRAINT accounts_identity,
            DROP COLUMN issuer,
            DROP COLUMN subject,
            ALTER COLUMN password_hash SET NOT NULL;
    """)
