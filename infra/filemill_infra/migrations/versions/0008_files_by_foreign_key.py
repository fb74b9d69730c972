"""The file that has a foreign service's key is found by an index: no second file may have it.

Revision: 0008; follows 0007. Partial: our own keys are kept for their file by their form, and do not enter it.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.execute(
        r"CREATE INDEX files_by_foreign_key ON files"
        r" (md5(btrim(regexp_replace(replace(s3_location, '\', '/'), '/+', '/', 'g'), '/')))"
        r" WHERE s3_location !~ '^file-[0-9]+-'"
    )


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP INDEX files_by_foreign_key")
