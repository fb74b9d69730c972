"""Files: create, monitor and download files."""

import streamlit as st

from filemill.domain.cursors import InvalidCursor
from filemill.domain.file_actions import FileAction, FileSelection
from filemill.domain.files import Status, parse_file_id
from filemill.errors import InvalidRequest
from filemill.queries.files import FilePage
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.bulk_actions import bulk_dialog, bulk_menu
from filemill_dashboard.components.file_actions import act_on_files
from filemill_dashboard.components.file_details import file_details
from filemill_dashboard.components.file_form import created_file, file_form, note_created
from filemill_dashboard.components.file_table import download_refusal, file_table
from filemill_dashboard.components.job_dialog import job_button, job_dialog
from filemill_dashboard.components.queue_filter import KEY as QUEUE
from filemill_dashboard.components.queue_filter import queue_filter
from filemill_dashboard.components.status_tiles import status_tiles
from filemill_dashboard.components.view_url import clear_in_url, search_box, update_view
from filemill_dashboard.state import page_data
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import FileQuery, PageData, Snapshot
from filemill_dashboard.state.principals import page_owner, why_not_act

SEARCH_LIVE = "300ms"
SEARCH_PIXELS = 260
OLDEST = "oldest"
_OUTCOME = "list_outcome"


def _status() -> Status | None:
    """Return the status filter of the URL; an invalid one is ignored."""
    status = st.query_params.get("status", "")
    return Status(status) if status in set(Status) else None


def _read(data: PageData, query: FileQuery) -> CachedValue[FilePage]:
    try:
        return data.files(query)
    except InvalidCursor:  # an edited URL: show the newest files instead of an error
        update_view()
        return data.files(FileQuery(query.status, query.search, oldest_first=query.oldest_first, queue=query.queue))


def _empty(query: FileQuery, reading: CachedValue[FilePage]) -> tuple[str, str]:
    if reading.value is None:
        return "No data yet", "The list appears when the database responds."
    if query.search or query.status or query.queue:
        filters = [f"status {query.status}"] if query.status else []
        filters += [f"“{query.search}” in the title"] if query.search else []
        filters += [f"queue {query.queue}"] if query.queue else []
        return "No matching files", f"Filter: {', '.join(filters)}. Remove the filter to see all files."
    return "No files yet", "Enter a title above and click Create file."


def _tiles(data: PageData, snapshot: CachedValue[Snapshot], status: Status | None, search: str, queue: str) -> None:
    """Draw the number of files per status; with a search or a queue, of those that match."""
    counts, error = (snapshot.value.overview.counts if snapshot.value else None), snapshot.error
    if search or queue or page_owner() is not None:
        matching = data.matching_counts(search, queue)
        counts, error = matching.value, matching.error
    status_tiles(
        counts,
        status,
        stale=error is not None,
        searching=bool(search or queue),
        on_choice=lambda selected: update_view(status=selected),
    )


def _list(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    status = _status()
    with st.container(key="filters", horizontal=True, vertical_alignment="bottom"):
        with st.container(key="tile-row"):
            tiles = st.container()
        search = search_box("Search", "Search titles, or #id", "q", live=SEARCH_LIVE, width=SEARCH_PIXELS)
        queue = queue_filter(data)
        job_button()
        with tiles:
            _tiles(data, snapshot, status, search, queue)
        bulk_menu(FileSelection(status, search, queue))
    unreachable = "PostgreSQL is unreachable" if "postgres" in data.visibility().unreachable else ""
    cursor = st.query_params.get("cursor") or None
    query = FileQuery(status, search, cursor, st.query_params.get("sort") == OLDEST, queue=queue)
    reading = _read(data, query)
    if reading.value is not None and reading.value.previous is None and query.cursor:
        update_view()  # back on the first page: without a cursor it keeps showing the newest files
    file_table(
        reading.value,
        age_seconds=reading.age_seconds or 0.0,
        stale=reading.error is not None,
        highlighted=created_file(),
        empty=_empty(query, reading),
        on_open=_open,
        on_page=lambda cursor: update_view(cursor=cursor),
        on_sort=lambda: update_view(sort="" if query.oldest_first else OLDEST),
        on_act=lambda action, ids: _act(data, action, ids),
        refusal=lambda action, owner: why_not_act(action, owner) or unreachable,
        deleting=data.deletions.waiting_files(),
        no_download=download_refusal(data.visibility()),
    )
    if (notice := st.session_state.pop(_OUTCOME, None)) is not None:
        st.toast(f"{notice.title}. {notice.text}".strip())
    if st.session_state.pop("open_dialog", False):
        st.rerun(scope="app")  # the next refresh would close a dialog that a fragment opened


def _act(data: PageData, action: FileAction, ids: list[int]) -> None:
    notice = act_on_files(data, action, ids)
    if action is not FileAction.DELETE:  # the bar of the deletion says it already
        st.session_state[_OUTCOME] = notice


def _show_newest() -> None:
    """Remove all filters, so that the list begins with a new file."""
    clear_in_url("q", QUEUE)
    update_view(status="", sort="")


def _open(file_id: int) -> None:
    st.query_params["file"] = str(file_id)
    st.session_state["open_dialog"] = True


def _close() -> None:
    st.query_params.pop("file", None)


def _opened() -> int | None:
    try:
        return parse_file_id(st.query_params.get("file", ""))
    except InvalidRequest:
        return None


page_shell.render_page("Files", _list, above=lambda: file_form(show_newest=_show_newest))


def _show_created(file_id: int | None) -> None:
    if file_id is not None:
        note_created(file_id)
    _show_newest()


if job_dialog(page_data.current(), _show_created):
    pass
elif (file_id := _opened()) is not None:
    file_details(page_data.current(), file_id, on_close=_close)
else:
    bulk_dialog(page_data.current())
