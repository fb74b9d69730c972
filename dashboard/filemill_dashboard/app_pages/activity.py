"""Activity: the audit log, filtered by person, action, object and outcome; export it."""

from urllib.parse import urlencode

import streamlit as st

from filemill.domain.cursors import AUDIT, InvalidCursor
from filemill.domain.files import epoch_milliseconds
from filemill.domain.permissions import Permission
from filemill.queries.audit import AuditEntryRow, AuditFilter, AuditQuery
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.audit_details import audit_details, details_of
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.links import download_button
from filemill_dashboard.components.view_url import search_box, select_box, select_option, update_view
from filemill_dashboard.state import page_data
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot

LIMIT = 50
# The longest name that the log has: see `filemill.services.audit`.
NAME_MAX_CHARACTERS = 200
OUTCOMES: dict[str, bool | None] = {"All": None, "Done": False, "Refused": True}
ALL_PEOPLE, ALL_ACTIONS = "All people", "All actions"
COLUMNS = [
    Column("at", "Time", "moment", 190),
    Column("actor", "Person or program", "text", 170),
    Column("action", "Action", "mono", 140),
    Column("outcome", "Outcome", "badge", 92),
    Column("detail", "Details"),
    Column("address", "Address", "text", 130, hide_below=900),
]


def _activity(data: PageData, _snapshot: CachedValue[Snapshot]) -> None:
    wanted = _read_filter(data)
    query = AuditQuery(wanted, _before(), LIMIT)
    reading = data.audit(query)
    rows = (reading.value or [])[:LIMIT]
    following = AUDIT.encode(rows[-1].sequence) if len(reading.value or []) > LIMIT else None
    _page_bar(rows, query, following)
    data_grid(
        "audit",
        COLUMNS,
        [_row(entry) for entry in rows],
        label="Audit log",
        empty=_empty(wanted, known=reading.value is not None),
        stale=reading.error is not None,
        selected=st.query_params.get("entry"),
        on_open=_open,
    )
    if st.session_state.pop("open_dialog", False):
        st.rerun(scope="app")  # the next refresh would close a dialog that a fragment opened


def _read_filter(data: PageData) -> AuditFilter:
    people, actions = data.audit_choices()
    with st.container(key="topic-bar", horizontal=True, vertical_alignment="bottom"):
        actor = _chosen("Person or program", ALL_PEOPLE, people, "person", 210)
        action = _chosen("Action", ALL_ACTIONS, actions, "action", 170)
        outcome = select_option("Outcome", list(OUTCOMES), "All", "outcome")
        about = search_box("Object", "File #id, worker, account, topic", "object", live="500ms", width=250)
    return AuditFilter(actor, action, about[:NAME_MAX_CHARACTERS], OUTCOMES[outcome])


def _chosen(label: str, everything: str, known: list[str], key: str, width: int) -> str:
    """Draw a select box and return its value, "" for all. One of the URL is offered even if it is not known."""
    given = st.query_params.get(key, "")
    more = [given] if given and given not in known and len(given) <= NAME_MAX_CHARACTERS else []
    chosen = select_box(label, [everything, *known, *more], key, width, clears=("entry",))
    return "" if chosen == everything else chosen


def _before() -> int | None:
    cursor = st.query_params.get("cursor", "")
    try:
        return AUDIT.decode(cursor)[0] if cursor else None
    except InvalidCursor:  # an edited URL
        return None


def _page_bar(rows: list[AuditEntryRow], query: AuditQuery, following: str | None) -> None:
    """Draw the number of rows, the buttons for other pages, and the exports."""
    with st.container(
        key="message-bar", horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        more = "; older ones follow" if following else ""
        st.caption(f"{len(rows):,} shown{more}.")
        with st.container(key="message-actions", horizontal=True, width="content", gap="small"):
            if query.before is not None or following:
                st.button("Newest", key="audit-first", disabled=query.before is None, on_click=update_view)
                older = {"cursor": following or ""}
                st.button("Older", key="audit-more", disabled=following is None, on_click=update_view, kwargs=older)
            for label, form in (("CSV", "csv"), ("JSON lines", "ndjson")):
                address = f"/api/audit/export?{urlencode(_parameters(query.wanted, form))}"
                download_button(f"audit-{form}", f"Export {label}", address, "All rows that match the filters")


def _parameters(wanted: AuditFilter, form: str) -> dict[str, str]:
    """The filters as parameters of REST."""
    given = {"format": form, "actor": wanted.actor, "action": wanted.action, "object": wanted.object}
    refused = "" if wanted.refused is None else str(wanted.refused).lower()
    return {name: value for name, value in {**given, "refused": refused}.items() if value}


def _row(entry: AuditEntryRow) -> TableRow:
    refused = "refused" in entry.detail
    cells = {
        "at": epoch_milliseconds(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "outcome": ("refused", "bad") if refused else ("done", "good"),
        "detail": details_of(entry.action, entry.detail),
        "address": entry.address,
    }
    return TableRow(str(entry.sequence), cells)


def _empty(wanted: AuditFilter, *, known: bool) -> tuple[str, str]:
    if not known:
        return "No data yet", "Waiting for the database."
    if wanted != AuditFilter():
        return "No matching rows", "Change or remove the filters."
    return "No operations yet", "What people and programs change appears here, and what they were refused."


def _open(sequence: str) -> None:
    update_view(entry=sequence, cursor=st.query_params.get("cursor", ""))
    st.session_state["open_dialog"] = True


def _close() -> None:
    st.query_params.pop("entry", None)


page_shell.render_page("Activity", _activity, permission=Permission.READ_AUDIT)
_opened = st.query_params.get("entry", "")
if _opened.isascii() and _opened.isdigit() and len(_opened) <= 18:
    audit_details(page_data.current(), int(_opened), on_close=_close)
