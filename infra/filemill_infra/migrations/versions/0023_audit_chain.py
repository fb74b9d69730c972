"""Chain the rows of the audit log by hashes, and make the log append-only.

A trigger gives each new row its sequence number and its hashes, also for rows of other programs. It runs with the
rights of the schema's owner, so the application needs no right to change the head of the chain. Existing rows are
chained in the order of their ids.

Revision: 0023; follows 0021.
"""

from alembic import op

revision = "0023"
down_revision = "0021"
branch_labels = None
depends_on = None

# `filemill.domain.audit_chain` computes the same hash. Each field is its length in bytes, a colon, the value in UTF-8
# and a comma; a missing one is a hyphen. So no two rows have the same encoding.
HASHING = """
CREATE FUNCTION audit_field(value text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$
    SELECT coalesce(octet_length(convert_to(value, 'UTF8')) || ':' || value || ',', '-')
$$;
CREATE FUNCTION audit_hash(row_ operations, previous bytea) RETURNS bytea LANGUAGE sql STABLE
SET search_path = pg_catalog, public AS $$
    SELECT sha256(previous || convert_to(
        public.audit_field(row_.sequence::text) || public.audit_field(row_.id::text)
        || public.audit_field((extract(epoch FROM row_.at) * 1000000)::bigint::text)
        || public.audit_field(row_.actor) || public.audit_field(row_.action) || public.audit_field(row_.detail::text)
        || public.audit_field(row_.authentication) || public.audit_field(row_.address)
        || public.audit_field(row_.request_id) || public.audit_field(row_.follows::text),
        'UTF8'
    ))
$$;
"""
COLUMNS = """
ALTER TABLE operations
    ADD COLUMN authentication text, ADD COLUMN address text, ADD COLUMN request_id text, ADD COLUMN follows bigint,
    ADD COLUMN sequence bigint, ADD COLUMN previous_hash bytea, ADD COLUMN hash bytea;
CREATE TABLE audit_head (
    id smallint PRIMARY KEY DEFAULT 1 CONSTRAINT audit_head_is_one_row CHECK (id = 1),
    count bigint NOT NULL,
    hash bytea NOT NULL
);
INSERT INTO audit_head (count, hash) VALUES (0, decode(repeat('00', 32), 'hex'));
"""
# Rows are written to a temporary table without indexes, in one pass, and joined in one statement. Updating each row
# would change its entries in all indexes. Before, the outcome of an operation was added to its row: it stays there.
CHAIN_EXISTING = """
DROP INDEX operations_by_time, operations_by_detail;
CREATE TEMPORARY TABLE chained (id bigint, sequence bigint, previous_hash bytea, hash bytea) ON COMMIT DROP;
DO $$
DECLARE
    found operations;
    last bytea := decode(repeat('00', 32), 'hex');
    this bytea;
    number bigint := 0;
BEGIN
    FOR found IN SELECT * FROM operations ORDER BY id LOOP
        number := number + 1;
        found.sequence := number;
        this := audit_hash(found, last);
        INSERT INTO chained VALUES (found.id, number, last, this);
        last := this;
    END LOOP;
    UPDATE operations SET sequence = chained.sequence, previous_hash = chained.previous_hash, hash = chained.hash
    FROM chained WHERE chained.id = operations.id;
    UPDATE audit_head SET count = number, hash = last;
END $$;
DROP TABLE chained;
ALTER TABLE operations
    ALTER COLUMN sequence SET NOT NULL, ALTER COLUMN previous_hash SET NOT NULL, ALTER COLUMN hash SET NOT NULL;
CREATE INDEX operations_by_time ON operations (at);
CREATE INDEX operations_by_detail ON operations USING gin (detail jsonb_path_ops);
CREATE UNIQUE INDEX operations_by_sequence ON operations (sequence);
CREATE INDEX operations_by_actor ON operations (actor, sequence);
CREATE INDEX operations_by_action ON operations (action, sequence);
CREATE INDEX operations_that_follow ON operations (follows) WHERE follows IS NOT NULL;
"""
# The lock of the one row of audit_head serializes writers until their commits.
TRIGGERS = """
CREATE FUNCTION chain_operation() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public AS $$
DECLARE
    head public.audit_head;
BEGIN
    SELECT * INTO STRICT head FROM public.audit_head FOR UPDATE;
    NEW.sequence := head.count + 1;
    NEW.previous_hash := head.hash;
    NEW.hash := public.audit_hash(NEW, head.hash);
    UPDATE public.audit_head SET count = NEW.sequence, hash = NEW.hash;
    RETURN NEW;
END $$;
CREATE FUNCTION refuse_change_of_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER operations_chain BEFORE INSERT ON operations FOR EACH ROW EXECUTE FUNCTION chain_operation();
CREATE TRIGGER operations_append_only BEFORE UPDATE OR DELETE ON operations
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_audit();
CREATE TRIGGER operations_no_truncate BEFORE TRUNCATE ON operations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit();
"""


def upgrade() -> None:
    """Add the columns, chain the existing rows, and add the triggers."""
    for statements in (COLUMNS, HASHING, CHAIN_EXISTING, TRIGGERS):
        op.execute(statements)


def downgrade() -> None:
    """Remove all of it; later rows that complete an earlier one stay."""
    op.execute("""
        DROP TRIGGER operations_chain ON operations;
        DROP TRIGGER operations_append_only ON operations;
        DROP TRIGGER operations_no_truncate ON operations;
        DROP FUNCTION chain_operation(), refuse_change_of_audit(), audit_hash(operations, bytea), audit_field(text);
        DROP TABLE audit_head;
        DROP INDEX operations_by_actor, operations_by_action;
        ALTER TABLE operations DROP COLUMN authentication, DROP COLUMN address, DROP COLUMN request_id,
            DROP COLUMN follows, DROP COLUMN sequence, DROP COLUMN previous_hash, DROP COLUMN hash;
    """)
