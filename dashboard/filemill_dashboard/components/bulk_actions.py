"""What can be done to all files that the list matches: a menu, and a dialog that counts and asks before it starts."""

from typing import Any
from urllib.parse import urlencode

import streamlit as st

from filemill.domain.file_actions import Action, Selection
from filemill.errors import Unavailable
from filemill.queries.files import COUNT_MAX
from filemill_dashboard.components.links import links
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.bulk import apply_to_all
from filemill_dashboard.state.jobs import JobRunning
from filemill_dashboard.state.page_data import PageData

ACTOR = "page"
_WANTED = "bulk_wanted"
_STATE = "bulk_state"
_EFFECTS = {
    Action.RETRY: "Each gets a new run, from the start.",
    Action.CANCEL: "Those that a worker has are let go by it. A result that comes first stands.",
    Action.DELETE: "Rows and objects go for good; tombstones stay, which the ledger counts.",
}


def bulk_menu(selection: Selection) -> None:
    """Draw the menu. What is chosen asks for the dialog (`opening`), which a run of the whole page opens."""
    with st.popover("All matching", width="content", key="bulk-menu"):
        for action in Action:
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
        chosen = {name: value for name, value in filters.items() if value}
        links(
            "exports",
            [
                (f"Export as {label}", f"/api/files/export?{urlencode({'format': form, **chosen})}")
                for label, form in (("CSV", "csv"), ("JSON lines", "ndjson"))
            ],
        )


def _open_dialog(action: Action, selection: Selection) -> None:
    st.session_state.update({_WANTED: (action, selection), _STATE: {}, "opening": True})


def bulk_dialog(data: PageData) -> None:
    """Open the dialog, where it was asked for."""
    wanted: tuple[Action, Selection] | None = st.session_state.get(_WANTED)
    if wanted is None:
        return
    action, selection = wanted
    state: dict[str, Any] = st.session_state[_STATE]

    def close() -> None:
        st.session_state.pop(_WANTED, None)

    def body() -> None:
        if "count" not in state:
            try:
                state["upto"] = data.services.operations.newest()
                state["count"] = data.services.operations.count(action, selection)
            except Unavailable as error:
                show_notices("bulk-trouble", [Notice("bad", "The files cannot be counted", str(error))])
                return
        many = _count_text(state["count"])
        st.write(f"**{many} files** match that can be {action.done}.")
        st.caption(_filter(selection))
        st.caption(_EFFECTS[action])

        show_notices("bulk-busy", [Notice("warn", "Not now", state["busy"])] if "busy" in state else [])
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Leave them", key="bulk-leave"):
                close()
                st.rerun()
            label = f"{action.value.capitalize()} {many} files"
            if st.button(label, key="bulk-go", type="primary", disabled=not state["count"]):
                _start(data, action, selection, state, label)
                if "busy" not in state:
                    close()
                    st.rerun()
                st.rerun(scope="fragment")

    st.dialog(f"{action.value.capitalize()} all matching files", on_dismiss=close)(body)()


def _start(data: PageData, action: Action, selection: Selection, state: dict[str, Any], label: str) -> None:
    total = state["count"] if state["count"] < COUNT_MAX else None
    try:
        data.jobs.start(label, total, apply_to_all(data.services, action, selection, state["upto"], ACTOR))
    except JobRunning as busy:
        state["busy"] = str(busy)


def _count_text(count: int) -> str:
    return f"more than {COUNT_MAX - 1:,}" if count >= COUNT_MAX else f"{count:,}"


def _filter(selection: Selection) -> str:
    parts = [f"status {selection.status}"] if selection.status else ["any status"]
    return f"Filter: {', '.join(parts)}" + (", and the search of the list." if selection.search else ".")
