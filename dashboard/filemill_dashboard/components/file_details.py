"""The details of one file, in a drawer beside the list."""

from collections.abc import Callable
from datetime import datetime

import streamlit as st

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.files import iso_milliseconds
from filemill.queries.file_timeline import FileTimeline
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.file_actions import file_actions, last_outcome
from filemill_dashboard.components.file_table import download_path, download_refusal, took_seconds
from filemill_dashboard.components.notices import Notice, show_inline_notice, show_notices
from filemill_dashboard.components.record_details import links_of_file
from filemill_dashboard.components.status_style import TONES
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.views.plurals import counted

REFRESH_SECONDS = 2.0
WIDTH_PIXELS = 520


def file_details(data: PageData, file_id: int, on_close: Callable[[], None]) -> None:
    """Open the drawer."""

    @st.fragment(run_every=REFRESH_SECONDS)
    def refreshed() -> None:
        reading = data.file(file_id)
        if reading.error is not None:
            show_notices("details-error", [Notice("bad", "PostgreSQL is unreachable", reading.error)])
        if reading.value is not None:
            page_shell.page_link("file", "Open file: timeline, attempts, content", id=str(file_id))
            links_of_file(data, reading.value)
            file_actions(data, reading.value)
            show_inline_notice("file-outcome", last_outcome(file_id))
            refusal = download_refusal(data.visibility())
            lines, path = file_facts(reading.value), download_path(reading.value)
            facts("details", lines, download=path, download_refusal=refusal)
        elif reading.error is None:
            show_notices("details-none", [gone_notice(file_id, data.file_timeline(file_id).value)])

    st.dialog(f"File #{file_id}", width=WIDTH_PIXELS, position="right", on_dismiss=on_close)(refreshed)()


def gone_notice(file_id: int, story: FileTimeline | None) -> Notice:
    """Return why there is no such file: it was deleted, when and by whom, or never existed."""
    if story is None or story.deleted_at is None:
        return Notice("warn", f"File #{file_id} does not exist")
    title = f"“{story.deleted_title}”. " if story.deleted_title else ""
    by = f" by {story.deleted_by}" if story.deleted_by else ""
    when = f"Deleted at {story.deleted_at:%Y-%m-%d %H:%M:%S} UTC{by}."
    return Notice("none", f"File #{file_id} was deleted", f"{title}{when} The ledger still counts it.")


def file_facts(row: FileRow) -> list[Fact]:
    """Return the values of the row."""
    steps = f" · step {row.step or 0} of {row.steps}" if row.steps and not row.status.terminal else ""
    position = f"{row.partition} / {row.offset}" if row.partition is not None else None
    return [
        Fact("Title", row.title),
        Fact("Status", f"{row.status}{steps}", tone=TONES[row.status]),
        *([Fact("Error", row.error, tone="bad")] if row.error else []),
        Fact("Description", row.description or "(none)"),
        Fact("Requested", _moment(row.created_at), mono=True),
        Fact("Started", _moment(row.started_at), mono=True),
        Fact("Finished", _moment(row.finished_at), mono=True),
        Fact("Duration", None if (took := took_seconds(row)) is None else f"{took:,.3f} s"),
        Fact("Worker", row.worker_id, mono=True),
        Fact("Partition / offset", position, mono=True),
        Fact("Run / attempt", f"{row.run} / {row.attempt if row.attempt is not None else '–'}", mono=True),
        Fact("S3 key", row.s3_location, mono=True),
        Fact("SHA-256", row.sha256, mono=True),
        Fact("Size", None if row.size is None else counted(row.size, "byte")),
    ]


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else iso_milliseconds(moment)
