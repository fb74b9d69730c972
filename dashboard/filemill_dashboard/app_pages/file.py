"""One file: its state diagram, its timeline, why it is waiting, and its content."""

import streamlit as st

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.deliveries import Delivery
from filemill.domain.files import Status, epoch_milliseconds, parse_file_id
from filemill.errors import InvalidRequest
from filemill.queries.file_timeline import FileTimeline
from filemill.queries.overview import Overview
from filemill.queries.workers import WorkerQuery, WorkerView
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.facts import facts
from filemill_dashboard.components.file_actions import file_actions, last_outcome
from filemill_dashboard.components.file_details import file_facts, gone_notice
from filemill_dashboard.components.file_header import file_header
from filemill_dashboard.components.file_table import download_refusal
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.job_details import job_details
from filemill_dashboard.components.notices import Notice, show_inline_notice, show_notices
from filemill_dashboard.components.preview import preview
from filemill_dashboard.components.record_details import links_of_file
from filemill_dashboard.components.state_diagram import draw_state_diagram
from filemill_dashboard.components.timeline import event_timeline
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.views.file_timeline import TimelineEntry, delivery_outcome, state_diagram, timeline_entries
from filemill_dashboard.views.plurals import counted
from filemill_dashboard.views.process_story import process_entries, shared_steps
from filemill_dashboard.views.waiting import is_record_gone, why_waiting


def _file_id() -> int | None:
    try:
        return parse_file_id(st.query_params.get("id", ""))
    except InvalidRequest:
        return None


def _file(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    file_id = _file_id()
    if file_id is None:
        show_notices("none", [Notice("warn", "No file selected", "Select a file on the Files page.")])
        return
    reading = data.file_timeline(file_id)
    story, stale = reading.value, reading.error is not None
    if story is None:
        show_notices("none", [Notice("none", f"File #{file_id}: no data yet", reading.error or "")])
        return
    if story.file is None:
        show_notices("none", [gone_notice(file_id, story)])
        return
    diagram = state_diagram(story)
    overview = snapshot.value.overview if snapshot.value else None
    workers = _workers_of(data, story, overview)
    with st.container(key="file-head", horizontal=True, vertical_alignment="center"):
        file_header(story.file, stale=stale, download_refusal=download_refusal(data.visibility()))
        file_actions(data, story.file, gone=is_record_gone(story, overview, workers))
    show_inline_notice("file-outcome", last_outcome(file_id))
    if diagram is not None:
        draw_state_diagram("state-diagram", diagram, stale=stale)
    embedded = data.stack() is not None
    reason = why_waiting(story, overview, workers, visibility=data.visibility(), embedded=embedded)
    show_notices("why", [Notice(reason.tone, reason.what, reason.text)] if reason else [])
    with st.container(key="columns", horizontal=True, gap="large"):
        with st.container(key="left"):
            _deliveries(story, stale=stale)
            event_timeline("timeline", _timeline(data, story, story.file), title="Timeline", stale=stale)
            job_details(data, file_id)
            _preview(data, story.file)
        with st.container(key="right"):
            facts("details", file_facts(story.file), title="Details", stale=stale)
            links_of_file(data, story.file)


def _timeline(data: PageData, story: FileTimeline, file: FileRow) -> list[TimelineEntry]:
    """Return the file's events, and the starts and ends of the processes that it needed meanwhile."""
    around = shared_steps(data.process_steps(), file.created_at, file.finished_at or story.as_of)
    entries = [*timeline_entries(story), *process_entries(around)]
    return sorted(entries, key=lambda entry: entry.order or entry.at)


_DELIVERY_COLUMNS = [
    Column("worker", "Worker"),
    Column("run", "Run", "number", 54),
    Column("begin", "Begin", "moment", 190),
    Column("end", "End", "moment", 190, hide_below=800),
    Column("lasted", "Duration", "seconds", 82),
    Column("outcome", "How it ended", "badge", 210),
]


def _deliveries(story: FileTimeline, *, stale: bool) -> None:
    """Draw each delivery of the record to a worker: who had it, from when to when, and how that ended."""
    page_shell.section_heading("Deliveries to workers")
    data_grid(
        "deliveries",
        _DELIVERY_COLUMNS,
        [_delivery_row(index, one, story) for index, one in enumerate(story.deliveries)],
        label="Deliveries to workers",
        empty=("No worker has started it", "A worker reports the start of work that takes longer than a second."),
        stale=stale,
    )


def _delivery_row(index: int, delivery: Delivery, story: FileTimeline) -> TableRow:
    text, tone = delivery_outcome(delivery)
    until = delivery.ended_at or (story.as_of if text == "in progress" else None)
    return TableRow(
        str(index),
        {
            "worker": delivery.worker_id,
            "run": delivery.run,
            "begin": epoch_milliseconds(delivery.started_at),
            "end": None if delivery.ended_at is None else epoch_milliseconds(delivery.ended_at),
            "lasted": None if until is None else max(0.0, (until - delivery.started_at).total_seconds()),
            "outcome": (text, tone),
        },
        titles={"outcome": text},
    )


def _preview(data: PageData, file: FileRow) -> None:
    if file.status is not Status.COMPLETED or file.s3_location is None:
        preview("preview", None, title="Content", message=f"Status {file.status}: no content yet.")
        return
    reading = data.object_preview(file.id, file.s3_location)
    if reading.value is not None and reading.value.differs is not None:
        message = f"Content not shown: {reading.value.differs}."
        preview("preview", None, title="Content", message=message)
    elif reading.value is not None:
        size = counted(reading.value.size, "byte")
        note = size if reading.value.whole else f"first 4,096 of {size}"
        preview("preview", reading.value.text, title="Content", note=note)
    elif reading.error is not None:
        preview("preview", None, title="Content", message=f"Content unavailable: {reading.error}.")
    else:
        preview("preview", None, title="Content", message="The object does not exist in the bucket. It was removed.")


def _workers_of(data: PageData, story: FileTimeline, overview: Overview | None) -> list[WorkerView]:
    """Return the workers that may concern the file: its own worker and the members of the group."""
    members = overview.group.members if overview is not None and overview.group is not None else []
    ids = {member.client_id for member in members} | {story.file.worker_id if story.file is not None else None}
    named = tuple(sorted(worker_id for worker_id in ids if worker_id))
    page = data.workers(WorkerQuery(ids=named)).value if named else None
    return page.items if page is not None else []


page_shell.render_page("File", _file, section="Files")
