"""The details of one record of a topic, in a drawer beside the list: value, key, headers, and what it belongs to."""

from collections.abc import Callable

import streamlit as st

from filemill.adapters.kafka.topic_browser import BrowsedRecord, BrowseQuery
from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.dead_letters import parse_place
from filemill.domain.files import Status
from filemill.domain.messages import file_id_in
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.preview import preview
from filemill_dashboard.components.view_url import update_view
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.views.payload import pretty
from filemill_dashboard.views.plurals import counted

WIDTH_PIXELS = 640


def link_to_record(label: str, topic: str, place: str) -> None:
    """Draw a link to a record, given as `partition:offset`, on the Messages page."""
    page_shell.page_link("messages", label, topic=topic, place=place)


def links_of_file(data: PageData, row: FileRow) -> None:
    """Draw links to the file's record on Kafka, and to its dead letter if it failed."""
    letters = data.dead_letters().value if row.status is Status.FAILED else None
    letter = next((one for one in reversed(letters.items) if one.file_id == row.id), None) if letters else None
    if row.partition is None and letter is None:
        return
    with st.container(key="file-links", horizontal=True):
        queue = data.services.settings.all_queues.get(row.queue)
        if queue is not None and row.partition is not None and row.offset is not None:
            link_to_record("Its record on Kafka", queue.topic, f"{row.partition}:{row.offset}")
        if letter is not None:
            page_shell.page_link("letters", "Its dead letter", view="All", place=letter.place)


def record_details(data: PageData, topic: str, place: tuple[int, int], on_close: Callable[[], None]) -> None:
    """Open the drawer for the record at `place`: partition and offset."""
    partition, offset = place

    def body() -> None:
        reading = data.browse(BrowseQuery(topic, partition, offset, "", 1))
        if reading.error is not None:
            show_notices("record-error", [Notice("bad", "The record cannot be read", reading.error)])
        if reading.value is None:
            return
        record = next((one for one in reading.value.records if one.offset == offset), None)
        if record is None:
            text = "Retention or compaction removed it, or the topic has fewer records."
            show_notices("record-none", [Notice("warn", "There is no such record", text)])
            return
        _links(data, topic, record)
        preview("payload", pretty(record.value), title="Value", note=counted(len(record.value or b""), "byte"))
        facts("headers", _facts(record), title="Key and headers")

    title = f"{topic} {partition}:{offset}"
    st.dialog(title, width=WIDTH_PIXELS, position="right", on_dismiss=on_close)(body)()


def _links(data: PageData, topic: str, record: BrowsedRecord) -> None:
    """Draw links to the file, to the dead letter, and to the record that a dead letter is about."""
    settings = data.services.settings
    file_id = file_id_in(record.value)
    headers = {name: value or "" for name, value in record.headers}
    origin = headers.get("filemill-topic", "")
    place = f"{headers.get('filemill-partition', '')}:{headers.get('filemill-offset', '')}"
    letters = data.dead_letters().value if topic != settings.topic_dead_letters else None
    whose = f"{topic}/{record.partition}/{record.offset}"
    letter = next((one for one in reversed(letters.items) if one.source == whose), None) if letters else None
    with st.container(key="record-links", horizontal=True):
        if file_id is not None:
            page_shell.page_link("file", f"File #{file_id}", id=str(file_id))
        if letter is not None:
            page_shell.page_link("letters", "Its dead letter", view="All", place=letter.place)
        if topic == settings.topic_dead_letters:
            page_shell.page_link("letters", "On Dead letters", view="All", place=f"{record.partition}:{record.offset}")
            known = origin in {queue.topic for queue in settings.all_queues.values()}
            # Not a link: one to the page itself would leave the browser's address as it is.
            if known and parse_place(place) and st.button("Source record", key="source-record", type="tertiary"):
                update_view(topic=origin, place=place, partition="")
                st.rerun()


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
