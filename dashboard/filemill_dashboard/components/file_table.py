"""The list of files."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import streamlit as st

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.files import Status
from filemill.queries.files import FilePage
from filemill_dashboard.components.assets import component, only_drawn
from filemill_dashboard.components.status_style import TONES


def file_table(
    page: FilePage | None,
    *,
    age_seconds: float,
    stale: bool,
    highlighted: int | None,
    empty: tuple[str, str],
    on_open: Callable[[int], None],
    on_page: Callable[[str], None],
    on_sort: Callable[[], None],
) -> None:
    """Draw a page of the list, read `since` seconds ago.

    `own` is the file that this viewer has just asked for: its row lights up once. `empty` says what to show instead of
    no rows: what is the case, and what to do. `on_page` gets a cursor, "" for the first page; `on_sort` turns the list
    round.
    """
    items = page.items if page else []
    last = f"#{items[0].id} to #{items[-1].id}" if items else ""

    def act() -> None:
        state = st.session_state["files"]
        if state.open is not None:
            chosen = only_drawn("files", str(state.open), {str(row.id) for row in items})
            if chosen is not None:
                on_open(int(chosen))
        elif state.page is not None:
            cursor = only_drawn("files", state.page, {"", (page and page.next) or "", (page and page.previous) or ""})
            if cursor is not None:
                on_page(cursor)
        elif state.sort is not None:
            on_sort()

    component("file_table")(
        key="files",
        data={
            "rows": [_row(row, page.as_of, age_seconds, highlighted) for row in items] if page else [],
            "empty": None if items else {"what": empty[0], "todo": empty[1]},
            "next": page.next if page else None,
            "previous": page.previous if page else None,
            "oldest_first": page is not None and page.oldest_first,
            "range": last,
            "old": stale,
        },
        on_open_change=act,
        on_page_change=act,
        on_sort_change=act,
    )


def download_path(row: FileRow) -> str | None:
    """Where a completed file is downloaded from; None for others."""
    return f"/api/files/{row.id}/download" if row.status is Status.COMPLETED and row.s3_location else None


def took_seconds(row: FileRow) -> float | None:
    """From the request to the end; None while there is no end."""
    return None if row.finished_at is None else max(0.0, (row.finished_at - row.created_at).total_seconds())


def _row(row: FileRow, as_of: datetime, since: float, own: int | None) -> dict[str, Any]:
    age = max(0.0, (as_of - row.created_at).total_seconds()) + since
    steps = row.status is Status.PROCESSING and row.steps
    return {
        "id": row.id,
        "title": row.title,
        "status": row.status.value,
        "tone": TONES[row.status],
        "step": row.step or 0 if steps else None,
        "steps": row.steps if steps else None,
        "note": _note(row),
        "bad": row.status is Status.FAILED,
        "age": age,
        "took": took_seconds(row),
        "size": row.size,
        "download": download_path(row),
        "why": f"{row.status.value}: only a completed file can be downloaded",
        "fresh": row.id == own,
    }


def _note(row: FileRow) -> str:
    match row.status:
        case Status.PROCESSING:
            by = f" · {row.worker_id}" if row.worker_id else ""
            again = f" · attempt {row.attempt}" if row.attempt and row.attempt > 1 else ""
            return (f"{row.step or 0} of {row.steps}" if row.steps else "begun") + by + again
        case Status.FAILED:
            return row.error or "no reason given"
        case Status.COMPLETED:
            return row.worker_id or "by a foreign service"
        case Status.PENDING:
            return "waits for a worker"
        case Status.CANCELLED:
            return "cancelled"
