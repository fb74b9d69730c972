"""Watching that statuses never move back: a trigger of the lab's own database notes each move that does.

How things stand at the end does not show a status that went back and came again; the database sees every step.
"""

import sqlalchemy as sa

_INSTALL = """
CREATE TABLE IF NOT EXISTS lab_backward_moves (
    id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL DEFAULT clock_timestamp(), file_id bigint NOT NULL,
    old_run int NOT NULL, old_status text NOT NULL, new_run int NOT NULL, new_status text NOT NULL
);
CREATE OR REPLACE FUNCTION lab_rank(status text) RETURNS int LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE status WHEN 'pending' THEN 0 WHEN 'processing' THEN 1 ELSE 2 END $$;
CREATE OR REPLACE FUNCTION lab_note_backward_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO lab_backward_moves (file_id, old_run, old_status, new_run, new_status)
    VALUES (new.id, old.run, old.status, new.run, new.status);
    RETURN new;
END $$;
CREATE OR REPLACE TRIGGER lab_backward AFTER UPDATE OF status, run ON files FOR EACH ROW
WHEN (new.run < old.run OR new.run = old.run AND (
    lab_rank(new.status) < lab_rank(old.status)
    OR lab_rank(old.status) = 2 AND new.status IS DISTINCT FROM old.status))
EXECUTE FUNCTION lab_note_backward_move();
"""


def install_trigger(engine: sa.Engine) -> None:
    """Begin to watch; only in a database that is the lab's own."""
    with engine.begin() as connection:
        connection.exec_driver_sql(_INSTALL)


def status_regressions(engine: sa.Engine) -> list[str] | None:
    """Each move back, in words; None where nobody watched."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("lab_backward_moves"):
            return None
        rows = connection.execute(sa.text("SELECT * FROM lab_backward_moves ORDER BY id"))
        return [
            f"file {row.file_id}: {row.old_status} (run {row.old_run}) → {row.new_status} (run {row.new_run})"
            for row in rows
        ]
