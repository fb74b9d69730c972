"""Bulk actions on all matching files: a menu, and a dialog that shows what matches and asks for confirmation."""

from dataclasses import dataclass
from urllib.parse import urlencode

import streamlit as st

from filemill.domain.file_actions import PERMISSIONS, FileAction, FileSelection
from filemill.errors import Forbidden, Unavailable
from filemill.queries.files import COUNT_MAX, FileTitle
from filemill_dashboard.components.confirmation import confirmation
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.links import links
from filemill_dashboard.components.menu import close_menu, menu
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.bulk import apply_to_all
from filemill_dashboard.state.jobs import JobRunning
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.principals import page_principal, why_not
from filemill_dashboard.views.plurals import inflect

# The dialog names this many of the files, with so much of their titles.
TITLES_SHOWN = 5
TITLE_CHARACTERS = 60
_MENU = "bulk-menu"
_REQUESTED = "bulk_requested"
_STATE = "bulk_state"
_EFFECTS = {
    FileAction.RETRY: "Each file gets a new run from the start.",
    FileAction.CANCEL: "Workers stop processing these files. If a result arrives first, it is kept.",
    FileAction.DELETE: "Rows and objects are deleted permanently. Tombstones stay and are counted in the ledger.",
}


@dataclass
class _Matching:
    """What matched when the dialog was opened: later files are not part of it."""

    newest_id: int
    count: int
    first: list[FileTitle]


def bulk_menu(selection: FileSelection) -> None:
    """Draw the menu. A selected action requests the dialog; the next run of the whole page opens it."""
    with menu("All matching", _MENU, width="content"):
        for action in FileAction:
            st.button(
                f"{action.value.capitalize()} all matching …",
                key=f"bulk-{action}",
                width="stretch",
                on_click=_open_dialog,
                args=(action, selection),
                disabled=bool(reason := _disabled_reason(action, selection)),
                help=reason or None,
            )
        filters = {"status": selection.status or "", "search": selection.search, "queue": selection.queue}
        active = {name: value for name, value in filters.items() if value}
        links(
            "exports",
            [
                (f"Export as {label}", f"/api/files/export?{urlencode({'format': form, **active})}")
                for label, form in (("CSV", "csv"), ("JSON lines", "ndjson"))
            ],
        )


def _disabled_reason(action: FileAction, selection: FileSelection) -> str:
    if not selection.eligible(action):
        return f"No {selection.status} file can be {action.done}"
    return why_not(PERMISSIONS[action])


def _open_dialog(action: FileAction, selection: FileSelection) -> None:
    close_menu(_MENU)
    st.session_state.update({_REQUESTED: (action, selection), "open_dialog": True})
    st.session_state.pop(_STATE, None)


def bulk_dialog(data: PageData) -> None:
    """Open the dialog if it was requested."""
    requested: tuple[FileAction, FileSelection] | None = st.session_state.get(_REQUESTED)
    if requested is None:
        return
    action, selection = requested

    def about() -> str:
        if (matching := _matching(data, action, selection)) is None:
            return ""
        count = f"{_count_text(matching.count)} {inflect(matching.count, 'file')}"
        matches = "matches" if matching.count == 1 else "match"
        st.write(f"**{count}** {matches} and can be {action.done}.")
        lines = [
            Fact("Status", ", ".join(selection.eligible(action)) if selection.status is None else selection.status),
            Fact("Title contains", f"“{selection.search}”" if selection.search else "(any title)"),
        ]
        if selection.queue:
            lines.append(Fact("Queue", selection.queue, mono=True))
        if matching.first:
            lines.append(Fact("Files", "\n".join([*map(_titled, matching.first), *_more(matching)])))
        facts("bulk-matching", lines)
        st.caption(_EFFECTS[action])
        return f"{action.value.capitalize()} {count}" if matching.count else ""

    def act() -> str | None:
        matching: _Matching = st.session_state[_STATE]
        total = matching.count if matching.count < COUNT_MAX else None
        label = f"{action.value.capitalize()} {_count_text(matching.count)} {inflect(matching.count, 'file')}"
        try:
            work = apply_to_all(data.services, action, selection, matching.newest_id, page_principal())
            data.jobs.start(label, total, work)
        except JobRunning as busy:
            return str(busy)
        return None

    def close() -> None:
        st.session_state.pop(_REQUESTED, None)
        st.session_state.pop(_STATE, None)

    title, danger = f"{action.value.capitalize()} all matching files", action is FileAction.DELETE
    confirmation("bulk", title, about, act, close, failure="Another job is running", danger=danger)


def _matching(data: PageData, action: FileAction, selection: FileSelection) -> _Matching | None:
    """Return what matched when the dialog was opened; None, with a notice, if the database is unreachable."""
    if _STATE not in st.session_state:
        operations = data.services.operations
        try:
            operations.authorize_all(action, page_principal())
            newest = operations.newest_id()
            count = operations.count(action, selection)
            first = operations.matching_titles(action, selection, upto=newest, limit=TITLES_SHOWN)
        except (Forbidden, Unavailable) as error:
            show_notices("bulk-error", [Notice("bad", "Counting the files failed", str(error))])
            return None
        st.session_state[_STATE] = _Matching(newest, count, first)
    found: _Matching = st.session_state[_STATE]
    return found


def _titled(file: FileTitle) -> str:
    title = " ".join(file.title.split())
    cut = title if len(title) <= TITLE_CHARACTERS else f"{title[:TITLE_CHARACTERS]}…"
    return f"#{file.id} {cut}"


def _more(matching: _Matching) -> list[str]:
    more = matching.count - len(matching.first)
    return [] if more <= 0 else ["… and more" if matching.count >= COUNT_MAX else f"… and {more:,} more"]


def _count_text(count: int) -> str:
    return f"more than {COUNT_MAX - 1:,}" if count >= COUNT_MAX else f"{count:,}"
