"""Files: ask for one, watch them go through, download them."""

import streamlit as st

from filemill.domain.cursors import InvalidCursor
from filemill.domain.file_actions import Selection
from filemill.domain.files import InvalidRequest, Status, parse_file_id
from filemill.queries.files import FilePage
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.bulk_actions import bulk_dialog, bulk_menu
from filemill_dashboard.components.file_details import file_details
from filemill_dashboard.components.file_form import created_file, file_form
from filemill_dashboard.components.file_table import file_table
from filemill_dashboard.components.status_tiles import status_tiles
from filemill_dashboard.components.view_url import search_box, update_view
from filemill_dashboard.state import data as data_module
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import FileQuery, PageData, Snapshot

SEARCH_LIVE = "300ms"
SEARCH_PIXELS = 260
OLDEST = "oldest"


def _status() -> Status | None:
    """The filter that the URL names; what makes no sense there is passed over."""
    wanted = st.query_params.get("status", "")
    return Status(wanted) if wanted in set(Status) else None


def _read(data: PageData, query: FileQuery) -> CachedValue[FilePage]:
    try:
        return data.files(query)
    except InvalidCursor:  # an edited URL: the newest are a better answer than a complaint
        update_view()
        return data.files(FileQuery(query.status, query.search, oldest_first=query.oldest_first))


def _empty(query: FileQuery, reading: CachedValue[FilePage]) -> tuple[str, str]:
    if reading.value is None:
        return "No data yet", "The database has not answered. The list appears as soon as it does."
    if query.search or query.status:
        filters = [f"status {query.status}"] if query.status else []
        filters += [f"a title with “{query.search}”"] if query.search else []
        return "No file matches", f"None has {' and '.join(filters)}. Lift the filter, or wait for one."
    return "No files yet", "Give a title above and press Create file: it appears here at once."


def _list(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    status = _status()
    with st.container(key="filters", horizontal=True, vertical_alignment="bottom"):
        with st.container(key="tile-row"):
            counts = snapshot.value.overview.counts if snapshot.value else None
            old = snapshot.error is not None
            status_tiles(counts, status, stale=old, on_choice=lambda chosen: update_view(status=chosen))
        wanted = search_box("Search", "Search titles, or #id", "q", live=SEARCH_LIVE, width=SEARCH_PIXELS)
        bulk_menu(Selection(status, wanted))
    query = FileQuery(status, wanted, st.query_params.get("cursor") or None, st.query_params.get("sort") == OLDEST)
    reading = _read(data, query)
    if reading.value is not None and reading.value.previous is None and query.cursor:
        update_view()  # the first page again: without a cursor it stays so when more come in
    file_table(
        reading.value,
        age_seconds=reading.age_seconds or 0.0,
        stale=reading.error is not None,
        highlighted=created_file(),
        empty=_empty(query, reading),
        on_open=_open,
        on_page=lambda cursor: update_view(cursor=cursor),
        on_sort=lambda: update_view(sort="" if query.oldest_first else OLDEST),
    )
    if st.session_state.pop("opening", False):
        st.rerun(scope="app")  # a dialog opened by a fragment would close with its next refresh


def _open(file_id: int) -> None:
    st.query_params["file"] = str(file_id)
    st.session_state["opening"] = True


def _close() -> None:
    st.query_params.pop("file", None)


def _opened() -> int | None:
    try:
        return parse_file_id(st.query_params.get("file", ""))
    except InvalidRequest:
        return None


page_shell.render_page(_list, above=lambda: file_form(show_newest=lambda: update_view(status="", q="", sort="")))
if (file_id := _opened()) is not None:
    file_details(data_module.current(), file_id, on_close=_close)
else:
    bulk_dialog(data_module.current())
