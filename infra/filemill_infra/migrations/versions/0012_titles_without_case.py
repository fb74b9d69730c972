"""Search titles regardless of case and Unicode normalization.

Revision: 0012; follows 0011. ASCII titles are unchanged. For others, a column stores the text that a search compares.
If there is no trigram index (0003), none is created here either.
"""

import sqlalchemy as sa
from alembic import op

from filemill.domain.files import search_text

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

BATCH = 5000
_INDEX = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE relname = 'files_by_title' AND relnamespace = current_schema()::regnamespace)
    THEN
        DROP INDEX files_by_title;
        CREATE INDEX files_by_title ON files USING gin ({} gin_trgm_ops);
    END IF;
END $$
"""
_NEXT = sa.text("SELECT id, title FROM files WHERE id > :after AND title ~ '[^\\x01-\\x7f]' ORDER BY id LIMIT :batch")
_FILL = sa.text("""
    UPDATE files SET title_search = given.folded
    FROM unnest(CAST(:ids AS bigint[]), CAST(:folded AS text[])) AS given (id, folded) WHERE files.id = given.id
""")


def upgrade() -> None:
    """Add the column, fill it, and index it."""
    op.execute("ALTER TABLE files ADD COLUMN title_search text")
    connection, after = op.get_bind(), 0
    while rows := connection.execute(_NEXT, {"after": after, "batch": BATCH}).all():
        ids = [row.id for row in rows]
        connection.execute(_FILL, {"ids": ids, "folded": [search_text(row.title) for row in rows]})
        after = ids[-1]
    op.execute(_INDEX.format("(COALESCE(title_search, title))"))


def downgrade() -> None:
    """Remove the column; the index is by the title again."""
    op.execute(_INDEX.format("title"))
    op.execute("ALTER TABLE files DROP COLUMN title_search")
