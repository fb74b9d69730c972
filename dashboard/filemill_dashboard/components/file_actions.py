"""Retry, cancel, delete: one file's buttons. One that cannot be pressed now says why."""

import streamlit as st

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.file_actions import Action
from filemill.domain.files import Status
from filemill.errors import Unavailable
from filemill_dashboard.components.notices import Notice
from filemill_dashboard.state.page_data import PageData

ACTOR = "page"
_OUTCOME = "file_outcome"


def last_outcome(file_id: int) -> Notice | None:
    """What came of this viewer's last act on the file."""
    known: tuple[int, Notice] | None = st.session_state.get(_OUTCOME)
    return known[1] if known is not None and known[0] == file_id else None


def file_actions(data: PageData, file: FileRow, *, gone: bool = False) -> None:
    """Draw them. `gone`: its record is gone from Kafka, so that it can be retried though it has not ended."""
    with st.container(key="acts", horizontal=True, width="content", gap="small"):
        for action, label in ((Action.RETRY, "Retry"), (Action.CANCEL, "Cancel")):
            why_not = "" if gone and action is Action.RETRY else _disabled_reason(action, file.status)
            st.button(
                label,
                key=f"act-{action}",
                disabled=bool(why_not),
                help=why_not or _EFFECTS[action],
                on_click=_act,
                args=(data, action, file.id),
            )
        why_not = _disabled_reason(Action.DELETE, file.status)
        with st.popover("Delete", disabled=bool(why_not), help=why_not or None):
            st.caption("The row and its object go for good; a tombstone stays, which the ledger counts.")
            st.button(
                f"Delete file #{file.id}",
                key="act-delete",
                type="primary",
                on_click=_act,
                args=(data, Action.DELETE, file.id),
                disabled=bool(why_not),
            )


_EFFECTS = {Action.RETRY: "A new run, from the start", Action.CANCEL: "End it; a worker that has it lets it go"}


def _disabled_reason(action: Action, status: Status) -> str:
    if status in action.statuses:
        return ""
    verbs = {Action.RETRY: "retried", Action.CANCEL: "cancelled", Action.DELETE: "deleted"}
    can = " or ".join(wanted.value for wanted in action.statuses)
    return f"It is {status}: only a file that is {can} can be {verbs[action]}."


def _act(data: PageData, action: Action, file_id: int) -> None:
    try:
        result = data.services.apply(action, [file_id], ACTOR)
    except Unavailable as error:
        notice = Notice("bad", f"Not {action.done}", f"{error}")
    else:
        data.invalidate()
        refused = result.refused[0].reason if result.refused else None
        notice = Notice("bad", f"Not {action.done}", refused) if refused else Notice("good", action.done.capitalize())
    st.session_state[_OUTCOME] = (file_id, notice)
