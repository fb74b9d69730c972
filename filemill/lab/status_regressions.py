"""Detects statuses that move backwards, by a trigger in the lab's own database.

The final rows do not show a status that moved backwards and then forwards again. The trigger sees each change.
"""

import sqlalchemy as sa

from filemill.adapters.postgres import lab as statements


def install_trigger(engine: sa.Engine) -> None:
    """Begin to record. Only for a database that belongs to the lab."""
    with engine.begin() as connection:
        statements.install_regression_trigger(connection)


def status_regressions(engine: sa.Engine) -> list[str] | None:
    """Each backward move, in words; None if no trigger is installed."""
    with engine.connect() as connection:
        rows = statements.status_regressions(connection)
    if rows is None:
        return None
    return [
        f"file {row.file_id}: {row.old_status} (run {row.old_run}) → {row.new_status} (run {row.new_run})"
        for row in rows
    ]
