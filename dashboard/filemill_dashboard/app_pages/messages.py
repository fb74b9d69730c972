"""Messages: browse a topic from its end, an offset or a time; filter, inspect and export records."""

from datetime import UTC, datetime

import streamlit as st

from filemill.adapters.kafka.admin import all_topics
from filemill.adapters.kafka.topic_browser import BrowsedRecord, BrowseQuery, BrowseResult
from filemill.domain.dead_letters import parse_place
from filemill.domain.permissions import Permission
from filemill.domain.positions import format_positions, parse_positions
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.record_details import record_details
from filemill_dashboard.components.view_url import search_box, select_box, select_option, update_view
from filemill_dashboard.state import page_data
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.views.message_export import as_json_lines
from filemill_dashboard.views.payload import one_line

LIMIT = 100
STARTS = ["Newest", "From offset", "From time"]
COLUMNS = [
    Column("place", "Position", "mono", 104, title="partition:offset"),
    Column("at", "Time", "moment", 178),
    Column("key", "Key", "text", 110, hide_below=900),
    Column("value", "Value"),
    Column("size", "Size", "bytes", 80),
    Column("headers", "Headers", "mono", 96, hide_below=700),
]

_UNREACHABLE = ("Kafka is unreachable", "The records appear when it responds again.")


def _messages(data: PageData, _snapshot: CachedValue[Snapshot]) -> None:
    look = _read_controls(data)
    if look is None:
        return
    away = "kafka" in data.visibility().unreachable
    reading = data.browse(look)
    view, stale = reading.value, reading.error is not None
    if view is None and away:  # a banner says so
        show_notices("messages-notice", [])
        data_grid("messages", COLUMNS, [], label="Messages", empty=_UNREACHABLE)
        return
    if view is None:
        title = "Reading …" if reading.error is None else "The topic cannot be read"
        show_notices("messages-notice", [Notice("warn", title, reading.error or "")])
        return
    # An outage of Kafka has its own banner, which moves no row.
    error = None if away else reading.error
    show_notices("messages-notice", [Notice("warn", "Showing stale data", error)] if error else [])
    _page_bar(view, look)
    data_grid(
        "messages",
        COLUMNS,
        [_row(record) for record in view.records],
        label="Messages",
        empty=_empty(view, look),
        stale=stale,
        selected=st.query_params.get("place"),
        on_open=_open,
    )
    if st.session_state.pop("open_dialog", False):
        st.rerun(scope="app")  # the next refresh would close a dialog that a fragment opened


def _page_bar(view: BrowseResult, look: BrowseQuery) -> None:
    """Draw what was looked at, the buttons for other pages, and the export."""
    with st.container(
        key="message-bar", horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        st.caption(_summary(view, look))
        with st.container(key="message-actions", horizontal=True, width="content", gap="small"):
            if look.positions or view.more:
                first = "Newest" if look.start is None else "First page"
                st.button(first, key="messages-first", disabled=not look.positions, on_click=update_view)
                onward = "Look further" if look.text else "Older" if look.start is None else "Later"
                cursor = _CURSORS[_direction(look.start)] + format_positions(view.positions)
                st.button(
                    onward, key="messages-more", disabled=not view.more, on_click=update_view, kwargs={"cursor": cursor}
                )
            st.download_button(
                f"Export {len(view.records):,} shown",
                as_json_lines(view.records),
                file_name=f"{look.topic}.ndjson",
                mime="application/x-ndjson",
                help="The records of this page, as JSON lines. `filemill messages --json` writes more.",
                on_click="ignore",
                disabled=not view.records,
            )


def _open(place: str) -> None:
    update_view(place=place, cursor=st.query_params.get("cursor", ""))
    st.session_state["open_dialog"] = True


def _close() -> None:
    st.query_params.pop("place", None)


def _read_controls(data: PageData) -> BrowseQuery | None:
    """Draw the controls and return their selection; None, with a notice, if the input is invalid."""
    names = all_topics(data.services.settings)
    known = {topic.name: topic.partitions or 0 for topic in data.topics().value or []}
    with st.container(key="topic-bar", horizontal=True, vertical_alignment="bottom"):
        topic = select_box("Topic", names, "topic", 260, clears=("place",))
        partitions = ["All", *(str(number) for number in range(known.get(topic, 0)))]
        partition = select_box("Partition", partitions, "partition", 110, clears=("place",))
        start = select_option("Start", STARTS, STARTS[0], "start")
        given = ""
        if start != STARTS[0]:
            label = "Offset" if start == STARTS[1] else "Time (UTC), for example 2026-11-22 12:00"
            given = search_box(label, label, "from", live="500ms", width=230)
        text = search_box("Filter", "Filter by text in key, value, headers", "text", live="500ms", width=280)
    try:
        where = _start(start, given)
    except ValueError as error:
        show_notices("messages-notice", [Notice("warn", "Invalid start", str(error))])
        return None
    return BrowseQuery(topic, int(partition) if partition.isdigit() else None, where, text, LIMIT, _positions(where))


# The first letter of a cursor: whether it leads to older records, or to later ones from an offset or a time.
_CURSORS = {"newest": "n", "offset": "o", "time": "t"}


def _direction(start: int | datetime | None) -> str:
    return "newest" if start is None else "time" if isinstance(start, datetime) else "offset"


def _positions(start: int | datetime | None) -> tuple[tuple[int, int], ...]:
    """Return the positions of the URL; none if they are invalid or of a page with another start."""
    cursor = st.query_params.get("cursor", "")
    return (parse_positions(cursor[1:]) or ()) if cursor.startswith(_CURSORS[_direction(start)]) else ()


def _topic(data: PageData) -> str:
    """Return the topic of the URL, or the first one."""
    names, topic = all_topics(data.services.settings), st.query_params.get("topic", "")
    return topic if topic in names else names[0]


def _start(start: str, given: str) -> int | datetime | None:
    """Return the offset, the time, or None for the newest. Raises ValueError with the reason."""
    if start == STARTS[0]:
        return None
    if start == STARTS[1]:
        if not given.isascii() or not (given or "0").isdigit() or len(given) > 18:
            raise ValueError(f"An offset must be a whole number, not {given!r}.")
        return int(given or "0")
    if not given:
        return datetime.now(UTC).replace(second=0, microsecond=0, minute=0)
    try:
        moment = datetime.fromisoformat(given)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment if moment.timestamp() > 0 else datetime.fromtimestamp(0, UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"A time must have the format 2026-11-22 12:00, not {given!r}.") from None


def _summary(view: BrowseResult, look: BrowseQuery) -> str:
    shown = f"{len(view.records):,} shown"
    if look.text:
        shown = f"{len(view.records):,} of {view.scanned:,} records match"
    older = "older" if look.start is None else "later"
    rest = f"; {older} ones follow" if view.more else ", which are all"
    return f"{shown}. Looked at {view.looked_at:,} of {view.total:,}{rest}." if view.total else f"{shown}."


def _empty(view: BrowseResult, look: BrowseQuery) -> tuple[str, str]:
    if view.more and look.text:
        hint = "Look further, or change the filter."
        return "No match yet", f"Looked at {view.looked_at:,} of {view.total:,} records. {hint}"
    if look.text and view.total:
        return "No match", f"All {view.total:,} records were looked at. Change the start or the filter."
    return "No records", "Change the start or the partition, or remove the filter."


def _place(record: BrowsedRecord) -> str:
    return f"{record.partition}:{record.offset}"


def _row(record: BrowsedRecord) -> TableRow:
    cells = {
        "place": _place(record),
        "at": record.timestamp_ms,
        "key": record.key,
        "value": one_line(record.value),
        "size": len(record.value) if record.value is not None else None,
        "headers": len(record.headers) if record.headers_error is None else "unreadable",
    }
    return TableRow(_place(record), cells)


page_shell.render_page("Messages", _messages, permission=Permission.READ_MESSAGES)
if (opened := parse_place(st.query_params.get("place", ""))) is not None:
    record_details(page_data.current(), _topic(page_data.current()), opened, on_close=_close)
