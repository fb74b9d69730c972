"""Bulk actions on all matching files: a menu, and a dialog that shows the count and asks for confirmation."""

from typing import Any
from urllib.parse import urlencode

import streamlit as st

from filemill.domain.file_actions import FileAction, FileSelection
from filemill.errors import Unavailable
from filemill.queries.files import COUNT_MAX
from filemill_dashboard.components.links import links
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.bulk import apply_to_all
from filemill_dashboard.state.jobs import JobRunning
from filemill_dashboard.state.page_data import PageData

ACTOR = "page"
_REQUESTED = "bulk_requested"
_STATE = "bulk_state"
_EFFECTS = {
    FileAction.RETRY: "Each file gets a new run from the start.",
    FileAction.CANCEL: "Workers stop processing these files. If a result arrives first, it is kept.",
    FileAction.DELETE: "Rows and objects are deleted permanently. Tombstones stay and are counted in the ledger.",
}


def bulk_menu(selection: FileSelection) -> None:
    """Draw the menu. A selected action requests the dialog; the next run of the whole page opens it."""
    with st.popover("All matching", width="content", key="bulk-menu"):
        for action in FileAction:
            st.button(
                f"{action.value.capitalize()} all matching …",
                key=f"bulk-{action}",
                width="stretch",
                on_click=_open_dialog,
                args=(action, selection),
                disabled=not selection.eligible(action),
                help=None if selection.eligible(action) else f"No {selection.status} file can be {action.done}",
            )
        filters = {"status": selection.status or "", "search": selection.search}
        active = {name: value for name, value in filters.items() if value}
        links(
            "exports",
            [
                (f"Export as {label}", f"/api/files/export?{urlencode({'format': form, **active})}")
                for label, form in (("CSV", "csv"), ("JSON lines", "ndjson"))
            ],
        )


def _open_dialog(action: FileAction, selection: FileSelection) -> None:
    st.session_state.update({_REQUESTED: (action, selection), _STATE: {}, "open_dialog": True})


def bulk_dialog(data: PageData) -> None:
    """Open the dialog if it was requested."""
    requested: tuple[FileAction, FileSelection] | None = st.session_state.get(_REQUESTED)
    if requested is None:
        return
    action, selection = requested
    state: dict[str, Any] = st.session_state[_STATE]

    def close() -> None:
        st.session_state.pop(_REQUESTED, None)

    def body() -> None:
        if "count" not in state:
            try:
                state["up_to"] = data.services.operations.newest_id()
                state["count"] = data.services.operations.count(action, selection)
            except Unavailable as error:
                show_notices("bulk-error", [Notice("bad", "Counting the files failed", str(error))])
                return
        count = _count_text(state["count"])
        st.write(f"**{count} files** match and can be {action.done}.")
        st.caption(_filter(selection))
        st.caption(_EFFECTS[action])

        show_notices("bulk-busy", [Notice("warn", "Another job is running", state["busy"])] if "busy" in state else [])
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Close", key="bulk-close"):
                close()
                st.rerun()
            label = f"{action.value.capitalize()} {count} files"
            if st.button(label, key="bulk-go", type="primary", disabled=not state["count"]):
                _start(data, action, selection, state, label)
                if "busy" not in state:
                    close()
                    st.rerun()
                st.rerun(scope="fragment")

    st.dialog(f"{action.value.capitalize()} all matching files", on_dismiss=close)(body)()


def _start(data: PageData, action: FileAction, selection: FileSelection, state: dict[str, Any], label: str) -> None:
    total = state["count"] if state["count"] < COUNT_MAX else None
    try:
        data.jobs.start(label, total, apply_to_all(data.services, action, selection, state["up_to"], ACTOR))
    except JobRunning as busy:
        state["busy"] = str(busy)


def _count_text(count: int) -> str:
    return f"more than {COUNT_MAX - 1:,}" if count >= COUNT_MAX else f"{count:,}"


def _filter(selection: FileSelection) -> str:
    parts = [f"status {selection.status}"] if selection.status else ["any status"]
    return f"Filter: {', '.join(parts)}" + (", and the current search." if selection.search else ".")
