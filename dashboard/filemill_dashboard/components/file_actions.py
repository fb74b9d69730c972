"""The buttons Retry, Cancel and Delete of one file. The tooltip of a disabled button gives the reason."""

from collections.abc import Sequence

import streamlit as st

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.file_actions import FileAction, FileRefusal
from filemill.domain.files import Status
from filemill.errors import Forbidden, Unavailable
from filemill_dashboard.components.notices import Notice
from filemill_dashboard.state.deletions import UNDO_SECONDS
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.principals import page_principal, why_not_act
from filemill_dashboard.views.plurals import counted

_OUTCOME = "file_outcome"


def last_outcome(file_id: int) -> Notice | None:
    """Return the outcome of this viewer's last action on the file."""
    known: tuple[int, Notice] | None = st.session_state.get(_OUTCOME)
    return known[1] if known is not None and known[0] == file_id else None


def file_actions(data: PageData, file: FileRow, *, gone: bool = False) -> None:
    """Draw the buttons. `gone`: its record is no longer on Kafka, so an unfinished file can be retried."""
    unreachable = "PostgreSQL is unreachable." if "postgres" in data.visibility().unreachable else ""
    with st.container(key="file-actions", horizontal=True, width="content", gap="small"):
        for action, label in ((FileAction.RETRY, "Retry"), (FileAction.CANCEL, "Cancel")):
            allowed = gone and action is FileAction.RETRY
            of_status = "" if allowed else _status_reason(action, file.status)
            disabled_reason = of_status or why_not_act(action, file.owner) or unreachable
            st.button(
                label,
                key=f"action-{action}",
                disabled=bool(disabled_reason),
                help=disabled_reason or _EFFECTS[action],
                on_click=_act,
                args=(data, action, file.id),
            )
        of_status = _status_reason(FileAction.DELETE, file.status)
        disabled_reason = of_status or why_not_act(FileAction.DELETE, file.owner) or unreachable
        waits = file.id in data.deletions.waiting_files()
        st.button(
            "Delete",
            key="action-delete",
            type="primary",
            on_click=_act,
            args=(data, FileAction.DELETE, file.id),
            disabled=bool(disabled_reason) or waits,
            help=disabled_reason or _EFFECTS[FileAction.DELETE],
        )


_EFFECTS = {
    FileAction.RETRY: "Start a new run",
    FileAction.CANCEL: "Cancel the file; a worker that processes it stops",
    FileAction.DELETE: f"Delete row and object in {UNDO_SECONDS:.0f} s; until then it can be undone",
}


def _status_reason(action: FileAction, status: Status) -> str:
    if status in action.statuses:
        return ""
    verbs = {FileAction.RETRY: "retried", FileAction.CANCEL: "cancelled", FileAction.DELETE: "deleted"}
    allowed = " or ".join(status.value for status in action.statuses)
    return f"Status {status}: only {allowed} files can be {verbs[action]}."


def act_on_files(data: PageData, action: FileAction, ids: Sequence[int]) -> Notice:
    """Retry or cancel these files, or delete them after the time for an undo; returns the outcome."""
    try:
        if action is FileAction.DELETE:
            return _request_deletion(data, ids)
        result = data.services.operations.apply(action, ids, page_principal())
    except (Forbidden, Unavailable) as error:
        return Notice("bad", f"Not {action.done}", f"{error}")
    data.invalidate()
    title = f"{counted(len(result.done), 'file')} {action.done}"
    return Notice("warn" if result.refused else "good", title, _reasons(result.refused))


def _request_deletion(data: PageData, ids: Sequence[int]) -> Notice:
    """Request the deletion of those files that the viewer may delete. The others neither wait nor can be undone."""
    principal = page_principal()
    permitted, refused = data.services.operations.permitted(FileAction.DELETE, ids, principal)
    if not permitted:
        return Notice("bad", f"Not {FileAction.DELETE.done}", _reasons(refused))
    data.deletions.request(permitted, principal)
    title = f"{counted(len(permitted), 'file')} will be deleted in {UNDO_SECONDS:.0f} s"
    return Notice("warn", title, " ".join(["Undo is below.", _reasons(refused)]).strip())


def _reasons(refused: Sequence[FileRefusal]) -> str:
    more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
    return "; ".join(f"#{one.file_id}: {one.reason}" for one in refused[:3]) + more


def _act(data: PageData, action: FileAction, file_id: int) -> None:
    if action is FileAction.DELETE:
        st.session_state[_OUTCOME] = (file_id, act_on_files(data, action, [file_id]))
        return
    try:
        result = data.services.operations.apply(action, [file_id], page_principal())
    except (Forbidden, Unavailable) as error:
        notice = Notice("bad", f"Not {action.done}", f"{error}")
    else:
        data.invalidate()
        refused = result.refused[0].reason if result.refused else None
        notice = Notice("bad", f"Not {action.done}", refused) if refused else Notice("good", action.done.capitalize())
    st.session_state[_OUTCOME] = (file_id, notice)
