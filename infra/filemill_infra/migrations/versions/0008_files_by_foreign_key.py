"""Index files by the object key of a foreign service: no second file may have it.

Revision: 0008; follows 0007. The index is partial: keys of filemill contain the file id.
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
