"""Messages: look into a topic by its end, an offset or a moment; filter; see one whole; export."""

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

LIMIT = 100
# So many partitions are named that hold more than is shown.
LEFT_MAX = 6
STARTS = ["Newest", "From offset", "From time"]
COLUMNS = [
    Column("place", "Place", "mono", 104, title="partition:offset"),
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
    view, old = reading.value, reading.error is not None
    if view is None:
        what = "Reading …" if reading.error is None else "The topic cannot be read now"
        show_notices("messages-trouble", [Notice("warn", what, reading.error or "")])
        return
    show_notices("messages-trouble", [Notice("warn", "This is not of now", reading.error)] if reading.error else [])
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
        empty=("No record here", "Choose another start, another partition, or lift the filter."),
        stale=old,
        selected=st.query_params.get("place"),
        on_open=lambda place: update_view(place="" if st.query_params.get("place") == place else place),
    )
    wanted = st.query_params.get("place")
    chosen = next((record for record in view.records if _place(record) == wanted), None)
    if chosen is not None:
        _details(chosen)


def _read_controls(data: PageData) -> BrowseQuery | None:
    """What the controls ask for; None, with the reason said, where it makes no sense."""
    names = all_topics(data.services.settings)
    known = {topic.name: topic.partitions or 0 for topic in data.topics().value or []}
    with st.container(key="topic-bar", horizontal=True, vertical_alignment="bottom"):
        topic = _select("Topic", names, "topic", 260)
        partitions = ["All", *(str(number) for number in range(known.get(topic, 0)))]
        partition = _select("Partition", partitions, "partition", 110)
        start = select_option("Start", STARTS, STARTS[0], "start")
        given = ""
        if start != STARTS[0]:
            what = "Offset" if start == STARTS[1] else "Time, as 2026-11-22 12:00 (UTC)"
            given = search_box(what, what, "from", live="500ms", width=230)
        text = search_box("Filter", "Filter by text in key, value, headers", "text", live="500ms", width=280)
    try:
        where = _start(start, given)
    except ValueError as error:
        show_notices("messages-trouble", [Notice("warn", "That is no place to start", str(error))])
        return None
    return BrowseQuery(topic, int(partition) if partition.isdigit() else None, where, text, LIMIT)


def _start(start: str, given: str) -> int | datetime | None:
    """Raises ValueError saying what is wrong."""
    if start == STARTS[0]:
        return None
    if start == STARTS[1]:
        if not given.isascii() or not (given or "0").isdigit() or len(given) > 18:
            raise ValueError(f"An offset is a whole number, not {given!r}.")
        return int(given or "0")
    if not given:
        return datetime.now(UTC).replace(second=0, microsecond=0, minute=0)
    try:
        moment = datetime.fromisoformat(given)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment if moment.timestamp() > 0 else datetime.fromtimestamp(0, UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"A time looks like 2026-11-22 12:00, not {given!r}.") from None


def _select(label: str, options: list[str], key: str, width: int) -> str:
    """A choice of many, in the URL."""
    wanted = st.query_params.get(key, "")
    place = options.index(wanted) if wanted in options else 0
    chosen: str = st.selectbox(label, options, place, key=f"select-{key}", label_visibility="collapsed", width=width)
    said = "" if chosen == options[0] else chosen
    if wanted != said:
        update_view(**{key: said, "place": ""})
    return chosen


def _summary(view: BrowseResult, look: BrowseQuery) -> str:
    total = sum((span.end or 0) - (span.begin or 0) for span in view.partitions)
    matching = (
        f"{len(view.records):,} of {view.scanned:,} that were looked at" if look.text else f"{len(view.records):,}"
    )
    shown = f"{matching} shown; the topic holds about {total:,} records in {len(view.partitions)} partitions."
    return f"{shown} {_remaining(view)}".rstrip()


def _remaining(view: BrowseResult) -> str:
    """Where the view ends although there is more."""
    places = [f"{partition} from offset {offset:,}" for partition, offset in sorted(view.next_offsets.items())]
    more = f" and {len(places) - LEFT_MAX} more" if len(places) > LEFT_MAX else ""
    return f"Not shown: partition {', '.join(places[:LEFT_MAX])}{more}." if places else ""


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
            size = f"{len(record.value or b''):,} bytes"
            preview("payload", pretty(record.value), title=f"Value of {_place(record)}", note=size)
        with st.container(key="right"):
            facts("headers", _facts(record), title="Key and headers")


def _facts(record: BrowsedRecord) -> list[Fact]:
    """Key and headers, in the order of the record; a name that occurs several times is there several times."""
    lines = [Fact("Key", _text_or_null(record.key), mono=True)]
    if record.invalid_timestamp is not None:
        lines.append(Fact("Timestamp", f"not a time: {record.invalid_timestamp} ms", tone="warn"))
    if record.headers_error is not None:
        lines.append(Fact("Headers", record.headers_error, tone="bad"))
    return lines + [Fact(name, _text_or_null(value), mono=True) for name, value in record.headers]


def _text_or_null(text: str | None) -> str:
    """A null and an empty value told apart."""
    return "(null)" if text is None else text or "(empty)"


page_shell.render_page(_messages)
