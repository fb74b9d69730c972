"""The attempts of a file's handler: what each used, how it ended, and the end of its log."""

import streamlit as st

from filemill.domain.files import epoch_milliseconds
from filemill.queries.attempts import HandlerAttempt
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.preview import preview
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.views.printable import printable

_COLUMNS = [
    Column("attempt", "Attempt", "number", 76, title="Of the run. An attempt that is not counted keeps the number"),
    Column("run", "Run", "number", 54),
    Column("worker", "Worker"),
    Column("end", "End", "moment", 190, hide_below=800),
    Column("cpu", "CPU", "seconds", 76, title="User and system time of its processes"),
    Column("peak", "Peak memory", "bytes", 104, title="Largest resident memory of its process"),
    Column("outcome", "How it ended", "badge", 190),
]


def job_attempts(data: PageData, file_id: int) -> None:
    """Draw the attempts, newest first, and the log of the chosen one."""
    reading = data.attempts(file_id)
    attempts, stale = reading.value or [], reading.error is not None
    page_shell.section_heading("Attempts")
    data_grid(
        "attempts",
        _COLUMNS,
        [_row(one) for one in attempts],
        label="Attempts",
        empty=("No attempt has ended", "A worker reports an attempt at its end."),
        stale=stale,
    )
    if not attempts:
        return
    by_key = {one.key: one for one in attempts}
    chosen = attempts[0]
    if len(attempts) > 1:
        key = st.selectbox(
            "Log of attempt", list(by_key), format_func=lambda key: _name(by_key[key]), key=f"attempt-{file_id}"
        )
        chosen = by_key.get(key, chosen)
    log = data.attempt_log(file_id, chosen.key)
    missing = "It printed nothing." if log.error is None else f"Log unavailable: {log.error}."
    text = None if log.value is None else printable(log.value)
    preview("attempt-log", text, title=f"Log of {_name(chosen)}", note="stdout, stderr and job.log", message=missing)


def _name(attempt: HandlerAttempt) -> str:
    return f"run {attempt.run}, attempt {attempt.number}, {attempt.at:%H:%M:%S} UTC"


def _row(attempt: HandlerAttempt) -> TableRow:
    failed = attempt.error is not None
    outcome = (attempt.code or "failed", "bad") if failed else ("result", "good")
    return TableRow(
        attempt.key,
        {
            "attempt": attempt.number,
            "run": attempt.run,
            "worker": attempt.worker_id,
            "end": epoch_milliseconds(attempt.at),
            "cpu": attempt.cpu_seconds,
            "peak": attempt.peak_bytes,
            "outcome": outcome,
        },
        titles={"outcome": printable(attempt.error or "It had a result")},
    )
