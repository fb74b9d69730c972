"""Count deleted files by the status that they had, as the files are counted.

Revision: 0017; follows 0016.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the triggers, and count the tombstones that exist."""
    op.execute("""
        CREATE FUNCTION count_tombstones() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                INSERT INTO status_counts (status, delta)
                SELECT 'deleted-' || status, count(*) FROM new_rows GROUP BY status;
            ELSE
                INSERT INTO status_counts (status, delta)
                SELECT 'deleted-' || status, -count(*) FROM old_rows GROUP BY status;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER tombstones_count_insert AFTER INSERT ON tombstones REFERENCING NEW TABLE AS new_rows
            FOR EACH STATEMENT EXECUTE FUNCTION count_tombstones();
        CREATE TRIGGER tombstones_count_delete AFTER DELETE ON tombstones REFERENCING OLD TABLE AS old_rows
            FOR EACH STATEMENT EXECUTE FUNCTION count_tombstones();
        INSERT INTO status_counts (status, delta)
            SELECT 'deleted-' || status, count(*) FROM tombstones GROUP BY status;
    """)


def downgrade() -> None:
    """Remove the triggers and the counts."""
    op.execute("""
        DROP TRIGGER tombstones_count_insert ON tombstones;
        DROP TRIGGER tombstones_count_delete ON tombstones;
        DROP FUNCTION count_tombstones();
        DELETE FROM status_counts WHERE status LIKE 'deleted-%';
    """)
