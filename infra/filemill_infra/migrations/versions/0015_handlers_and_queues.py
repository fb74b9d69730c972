"""Store the handler, the parameters and the queue of a request, and what workers announce.

Sequence numbers are per queue. Rows of earlier versions belong to the queue `default`.

Revision: 0015; follows 0014.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, number each queue on its own, and create the table of announced handlers."""
    op.execute("""
        ALTER TABLE files
            ADD COLUMN handler text NOT NULL DEFAULT 'text',
            ADD COLUMN parameters jsonb,
            ADD COLUMN inputs jsonb,
            ADD COLUMN queue text NOT NULL DEFAULT 'default',
            ADD COLUMN content_type text,
            ADD COLUMN fraction real,
            ADD COLUMN message text;

        ALTER TABLE outbox ADD COLUMN queue text NOT NULL DEFAULT 'default';
        CREATE INDEX outbox_by_queue ON outbox (queue, id);

        ALTER TABLE publications ADD COLUMN queue text NOT NULL DEFAULT 'default';
        ALTER TABLE publications DROP CONSTRAINT publications_pkey, ADD PRIMARY KEY (queue, publish_number);

        ALTER TABLE abandoned_numbers ADD COLUMN queue text NOT NULL DEFAULT 'default';
        ALTER TABLE abandoned_numbers DROP CONSTRAINT abandoned_numbers_pkey, ADD PRIMARY KEY (queue, publish_number);

        ALTER TABLE publish_counter ADD COLUMN queue text NOT NULL DEFAULT 'default';
        ALTER TABLE publish_counter
            DROP CONSTRAINT publish_counter_is_one_row, DROP CONSTRAINT publish_counter_pkey, DROP COLUMN id,
            ADD PRIMARY KEY (queue);
        ALTER TABLE publish_counter ALTER COLUMN queue DROP DEFAULT;

        CREATE TABLE worker_handlers (
            worker_id text NOT NULL,
            name text NOT NULL,
            version text NOT NULL,
            spec jsonb NOT NULL,
            announced_at timestamptz NOT NULL,
            PRIMARY KEY (name, worker_id)
        );
        CREATE INDEX worker_handlers_by_worker ON worker_handlers (worker_id);
    """)


def downgrade() -> None:
    """Remove the columns and the table. Requests of other queues than `default` lose their sequence numbers."""
    op.execute("""
        DROP TABLE worker_handlers;

        DELETE FROM publish_counter WHERE queue <> 'default';
        ALTER TABLE publish_counter
            DROP CONSTRAINT publish_counter_pkey, DROP COLUMN queue, ADD COLUMN id integer NOT NULL DEFAULT 1;
        ALTER TABLE publish_counter ALTER COLUMN id DROP DEFAULT;
        ALTER TABLE publish_counter
            ADD PRIMARY KEY (id), ADD CONSTRAINT publish_counter_is_one_row CHECK (id = 1);

        DELETE FROM abandoned_numbers WHERE queue <> 'default';
        ALTER TABLE abandoned_numbers DROP CONSTRAINT abandoned_numbers_pkey, DROP COLUMN queue;
        ALTER TABLE abandoned_numbers ADD PRIMARY KEY (publish_number);

        DELETE FROM publications WHERE queue <> 'default';
        ALTER TABLE publications DROP CONSTRAINT publications_pkey, DROP COLUMN queue;
        ALTER TABLE publications ADD PRIMARY KEY (publish_number);

        DROP INDEX outbox_by_queue;
        ALTER TABLE outbox DROP COLUMN queue;

        ALTER TABLE files
            DROP COLUMN handler, DROP COLUMN parameters, DROP COLUMN inputs, DROP COLUMN queue,
            DROP COLUMN content_type, DROP COLUMN fraction, DROP COLUMN message;
    """)
