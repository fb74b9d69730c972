"""The list of files."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import streamlit as st

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.file_actions import FileAction
from filemill.domain.files import Status
from filemill.queries.files import FilePage
from filemill_dashboard.components.assets import component, only_drawn
from filemill_dashboard.components.status_style import TONES
from filemill_dashboard.views.visibility import SERVERS, Visibility

# Why the viewer may not do an action to a file of an owner; empty: it may.
Refusal = Callable[[FileAction, str | None], str]


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
    on_act: Callable[[FileAction, list[int]], None],
    refusal: Refusal,
    deleting: Collection[int] = (),
    no_download: str = "",
) -> None:
    """Draw a page of the list, which is `age_seconds` old.

    The row of the file `highlighted`, which this viewer has just created, is highlighted once. Without rows, `empty` is
    shown: a title and a hint. `on_page` gets a cursor, or "" for the first page. `on_sort` reverses the order.
    `on_act` gets an action and the files, of the button of a row or of the selection. `refusal`: why this viewer may
    not do an action to a file of an owner (empty: it may). `deleting`: files whose deletion can be undone.
    `no_download`: why nothing can be downloaded now (empty: it can).
    """
    items = page.items if page else []
    range_text = f"#{items[0].id} to #{items[-1].id}" if items else ""

    def dispatch() -> None:
        state = st.session_state["files"]
        if state.open is not None:
            selected = only_drawn("files", str(state.open), {str(row.id) for row in items})
            if selected is not None:
                on_open(int(selected))
        elif state.page is not None:
            cursor = only_drawn("files", state.page, {"", (page and page.next) or "", (page and page.previous) or ""})
            if cursor is not None:
                on_page(cursor)
        elif state.sort is not None:
            on_sort()
        elif state.act is not None:
            chosen = _chosen(state.act, items)
            if chosen is not None and not any(
                refusal(chosen[0], row.owner) for row in items if row.id in set(chosen[1])
            ):
                on_act(*chosen)

    component("file_table")(
        key="files",
        data={
            "rows": [_row(row, page.as_of, age_seconds, highlighted, deleting, refusal) for row in items]
            if page
            else [],
            "refusals": _refusals(items, refusal),
            "no_download": no_download,
            "empty": None if items else {"title": empty[0], "hint": empty[1]},
            "next": page.next if page else None,
            "previous": page.previous if page else None,
            "oldest_first": page is not None and page.oldest_first,
            "range": range_text,
            "stale": stale,
        },
        on_open_change=dispatch,
        on_page_change=dispatch,
        on_sort_change=dispatch,
        on_act_change=dispatch,
    )


def _refusals(items: Sequence[FileRow], refusal: Refusal) -> dict[str, str]:
    """Why the viewer may not do an action to any of the files; empty: it may, to at least one."""
    owners = {row.owner for row in items}
    reasons = {action: [refusal(action, owner) for owner in owners] for action in FileAction}
    return {action.value: found[0] if found and all(found) else "" for action, found in reasons.items()}


def _chosen(sent: object, items: Sequence[FileRow]) -> tuple[FileAction, list[int]] | None:
    """The action and the files that a browser sent; None if they are not all drawn. The use case checks statuses."""
    name, ids = (sent.get("action"), sent.get("ids")) if isinstance(sent, Mapping) else (None, None)
    action = only_drawn("files", name, set(FileAction))
    drawn = {row.id for row in items}
    if action is None or not isinstance(ids, list) or not ids or not all(type(one) is int for one in ids):
        return None
    return (FileAction(action), ids) if drawn.issuperset(ids) else None


def download_path(row: FileRow) -> str | None:
    """Return the download path of a completed file, or None for other files."""
    return f"/api/files/{row.id}/download" if row.status is Status.COMPLETED and row.s3_location else None


def download_refusal(visibility: Visibility) -> str:
    """Why no file can be downloaded now; empty: they can. A download needs the row and the object."""
    away = [SERVERS[name] for name in ("postgres", "s3") if name in visibility.unreachable]
    return f"{' and '.join(away)} {'are' if len(away) > 1 else 'is'} unreachable" if away else ""


def took_seconds(row: FileRow) -> float | None:
    """Return the seconds from the request to its end, or None if it has not finished."""
    return None if row.finished_at is None else max(0.0, (row.finished_at - row.created_at).total_seconds())


def _row(
    row: FileRow,
    as_of: datetime,
    age_seconds: float,
    highlighted: int | None,
    deleting: Collection[int],
    refusal: Refusal,
) -> dict[str, Any]:
    age = max(0.0, (as_of - row.created_at).total_seconds()) + age_seconds
    steps = row.status is Status.PROCESSING and row.steps
    return {
        "id": row.id,
        "title": row.title,
        "status": row.status.value,
        "tone": TONES[row.status],
        "step": row.step or 0 if steps else None,
        "steps": row.steps if steps else None,
        "note": "will be deleted" if row.id in deleting else _note(row),
        "actions": [] if row.id in deleting else [one.value for one in FileAction if row.status in one.statuses],
        "refusals": {one.value: reason for one in FileAction if (reason := refusal(one, row.owner))},
        "failed": row.status is Status.FAILED,
        "age": age,
        "took": took_seconds(row),
        "size": row.size,
        "download": download_path(row),
        "download_hint": f"Status {row.status.value}: only completed files can be downloaded",
        "highlighted": row.id == highlighted,
    }


def _note(row: FileRow) -> str:
    match row.status:
        case Status.PROCESSING:
            by = f" · {row.worker_id}" if row.worker_id else ""
            attempt = f" · attempt {row.attempt}" if row.attempt and row.attempt > 1 else ""
            return (f"{row.step or 0} of {row.steps}" if row.steps else "started") + by + attempt
        case Status.FAILED:
            return row.error or "no reason given"
        case Status.COMPLETED:
            return row.worker_id or "foreign service"
        case Status.PENDING:
            return "waiting for a worker"
        case Status.CANCELLED:
            return "cancelled"
