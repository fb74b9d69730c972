"""Add generations of topics: stored facts about a topic name the generation that they belong to.

Revision: 0009; follows 0008. A topic that is deleted and created again has another id, and its offsets start again.
Existing rows belong to the first generation.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and columns."""
    op.execute("""
        CREATE TABLE topic_generations (
            topic text NOT NULL,
            generation integer NOT NULL,
            topic_id text NOT NULL,
            cluster_id text NOT NULL,
            first_seen_at timestamptz NOT NULL DEFAULT now(),
            seen_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (topic, generation)
        );
        CREATE UNIQUE INDEX topic_generations_by_id ON topic_generations (topic, topic_id, cluster_id);
        CREATE TABLE abandoned_numbers (
            publish_number bigint PRIMARY KEY,
            file_id bigint NOT NULL,
            run integer NOT NULL,
            partition integer NOT NULL,
            generation integer NOT NULL,
            abandoned_at timestamptz NOT NULL DEFAULT now()
        );
        ALTER TABLE outbox ADD COLUMN generation integer;
        UPDATE outbox SET generation = 1 WHERE publish_number IS NOT NULL;
        ALTER TABLE publications ADD COLUMN generation integer NOT NULL DEFAULT 1;
        ALTER TABLE sync_positions ADD COLUMN generation integer NOT NULL DEFAULT 1;
        ALTER TABLE lag_samples ADD COLUMN generation integer NOT NULL DEFAULT 1;
        ALTER TABLE rejected_messages ADD COLUMN generation integer NOT NULL DEFAULT 1;
        ALTER TABLE rejected_messages DROP CONSTRAINT rejected_messages_pkey;
        ALTER TABLE rejected_messages ADD PRIMARY KEY (topic, partition, "offset", generation);
        ALTER TABLE worker_events ADD COLUMN generation integer NOT NULL DEFAULT 1;
        ALTER TABLE worker_events DROP CONSTRAINT worker_events_pkey;
        ALTER TABLE worker_events ADD PRIMARY KEY (partition, "offset", generation);
    """)


def downgrade() -> None:
    """Remove them; rows of later generations are deleted."""
    op.execute("""
        DELETE FROM worker_events WHERE generation > 1;
        ALTER TABLE worker_events DROP CONSTRAINT worker_events_pkey;
        ALTER TABLE worker_events DROP COLUMN generation;
        ALTER TABLE worker_events ADD PRIMARY KEY (partition, "offset");
        DELETE FROM rejected_messages WHERE generation > 1;
        ALTER TABLE rejected_messages DROP CONSTRAINT rejected_messages_pkey;
        ALTER TABLE rejected_messages DROP COLUMN generation;
        ALTER TABLE rejected_messages ADD PRIMARY KEY (topic, partition, "offset");
        ALTER TABLE lag_samples DROP COLUMN generation;
        ALTER TABLE sync_positions DROP COLUMN generation;
        ALTER TABLE publications DROP COLUMN generation;
        ALTER TABLE outbox DROP COLUMN generation;
        DROP TABLE abandoned_numbers;
        DROP TABLE topic_generations;
    """)
