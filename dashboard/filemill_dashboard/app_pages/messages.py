"""Messages: browse a topic from its end, an offset or a time; filter, inspect and export records."""

from datetime import UTC, datetime

import streamlit as st

from filemill.adapters.kafka.admin import all_topics
from filemill.adapters.kafka.topic_browser import BrowsedRecord, BrowseQuery, BrowseResult
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.preview import preview
from filemill_dashboard.components.view_url import search_box, select_option, update_view
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.views.message_export import as_json_lines
from filemill_dashboard.views.payload import one_line, pretty
from filemill_dashboard.views.plurals import counted

LIMIT = 100
# The maximum number of partitions named in the summary as having more records.
REMAINING_MAX = 6
STARTS = ["Newest", "From offset", "From time"]
COLUMNS = [
    Column("place", "Position", "mono", 104, title="partition:offset"),
    Column("at", "Time", "moment", 178),
    Column("key", "Key", "text", 110, hide_below=900),
    Column("value", "Value"),
    Column("size", "Size", "bytes", 80),
    Column("headers", "Headers", "mono", 96, hide_below=700),
]


def _messages(data: PageData, _snapshot: CachedValue[Snapshot]) -> None:
    look = _read_controls(data)
    if look is None:
        return
    reading = data.browse(look)
    view, stale = reading.value, reading.error is not None
    if view is None:
        title = "Reading …" if reading.error is None else "The topic cannot be read"
        show_notices("messages-notice", [Notice("warn", title, reading.error or "")])
        return
    show_notices("messages-notice", [Notice("warn", "Showing stale data", reading.error)] if reading.error else [])
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(_summary(view, look))
        st.download_button(
            "Export JSON lines",
            as_json_lines(view.records),
            file_name=f"{look.topic}.ndjson",
            mime="application/x-ndjson",
            on_click="ignore",
            disabled=not view.records,
        )
    data_grid(
        "messages",
        COLUMNS,
        [_row(record) for record in view.records],
        label="Messages",
        empty=("No records", "Change the start or the partition, or remove the filter."),
        stale=stale,
        selected=st.query_params.get("place"),
        on_open=lambda place: update_view(place="" if st.query_params.get("place") == place else place),
    )
    selected_place = st.query_params.get("place")
    selected = next((record for record in view.records if _place(record) == selected_place), None)
    if selected is not None:
        _details(selected)


def _read_controls(data: PageData) -> BrowseQuery | None:
    """Draw the controls and return their selection; None, with a notice, if the input is invalid."""
    names = all_topics(data.services.settings)
    known = {topic.name: topic.partitions or 0 for topic in data.topics().value or []}
    with st.container(key="topic-bar", horizontal=True, vertical_alignment="bottom"):
        topic = _select("Topic", names, "topic", 260)
        partitions = ["All", *(str(number) for number in range(known.get(topic, 0)))]
        partition = _select("Partition", partitions, "partition", 110)
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
    return BrowseQuery(topic, int(partition) if partition.isdigit() else None, where, text, LIMIT)


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


def _select(label: str, options: list[str], key: str, width: int) -> str:
    """Draw a select box whose value is stored in the URL."""
    current = st.query_params.get(key, "")
    index = options.index(current) if current in options else 0
    selected: str = st.selectbox(label, options, index, key=f"select-{key}", label_visibility="collapsed", width=width)
    in_url = "" if selected == options[0] else selected
    if current != in_url:
        update_view(**{key: in_url, "place": ""})
    return selected


def _summary(view: BrowseResult, look: BrowseQuery) -> str:
    total = sum((span.end or 0) - (span.begin or 0) for span in view.partitions)
    matching = f"{len(view.records):,} of {view.scanned:,} scanned" if look.text else f"{len(view.records):,}"
    topic = f"{counted(total, 'record')} in {counted(len(view.partitions), 'partition')}"
    shown = f"Showing {matching}. The topic has about {topic}."
    return f"{shown} {_remaining(view)}".rstrip()


def _remaining(view: BrowseResult) -> str:
    """Return the positions after which more records exist."""
    positions = [f"{partition} from offset {offset:,}" for partition, offset in sorted(view.next_offsets.items())]
    more = f" and {len(positions) - REMAINING_MAX} more" if len(positions) > REMAINING_MAX else ""
    return f"Not shown: partition {', '.join(positions[:REMAINING_MAX])}{more}." if positions else ""


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


def _details(record: BrowsedRecord) -> None:
    with st.container(key="columns", horizontal=True, gap="large"):
        with st.container(key="left"):
            size = counted(len(record.value or b""), "byte")
            preview("payload", pretty(record.value), title=f"Value of {_place(record)}", note=size)
        with st.container(key="right"):
            facts("headers", _facts(record), title="Key and headers")


def _facts(record: BrowsedRecord) -> list[Fact]:
    """Return the key and the headers in order. A repeated name is listed each time."""
    lines = [Fact("Key", _text_or_null(record.key), mono=True)]
    if record.invalid_timestamp is not None:
        lines.append(Fact("Timestamp", f"not a time: {record.invalid_timestamp} ms", tone="warn"))
    if record.headers_error is not None:
        lines.append(Fact("Headers", record.headers_error, tone="bad"))
    return lines + [Fact(name, _text_or_null(value), mono=True) for name, value in record.headers]


def _text_or_null(text: str | None) -> str:
    """Distinguish a null value from an empty one."""
    return "(null)" if text is None else text or "(empty)"


page_shell.render_page("Messages", _messages)
