"""Workers: who is busy, idle, stuck or dead; what each does now; quiet, stop, kill, scale."""

from dataclasses import replace

import streamlit as st

from filemill.domain.worker_commands import WorkerCommandKind
from filemill.domain.worker_events import SKEW_WARNING_SECONDS, EventKind, WorkerCondition, WorkerEvent
from filemill.errors import Unavailable
from filemill.queries.workers import WorkerQuery, WorkerView
from filemill.runtime.stack_state import StackState
from filemill.runtime.supervisor_client import CommandRejected, SupervisorCommand
from filemill.services.operations import UnknownWorker
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.grid import Column, RowAction, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_inline_notice
from filemill_dashboard.components.tiles_filter import Tile, filter_tiles
from filemill_dashboard.components.timeline import timeline_of
from filemill_dashboard.components.view_url import search_box, update_view
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot, WorkerPage
from filemill_dashboard.state.worker_control import (
    PROCESSORS_MAX,
    processors,
    send_supervisor_command,
    send_worker_command,
)
from filemill_dashboard.views.durations import format_duration, format_rounded
from filemill_dashboard.views.file_timeline import TimelineEntry

ACTOR = "page"
PAGE_WORKERS = 50
PARTITIONS_SHOWN = 12
# So many chips fit into the column.
CHIPS_SHOWN = 3
NAME_CHARACTERS = 200
TONES = {
    WorkerCondition.BUSY: "busy",
    WorkerCondition.IDLE: "good",
    WorkerCondition.STUCK: "warn",
    WorkerCondition.DEAD: "bad",
    WorkerCondition.STOPPED: "none",
}
MEANINGS = {
    WorkerCondition.BUSY: "holds records",
    WorkerCondition.IDLE: "holds none",
    WorkerCondition.STUCK: "speaks, holds records, and finishes none",
    WorkerCondition.DEAD: "silent for three heartbeats, without a goodbye",
    WorkerCondition.STOPPED: "said goodbye",
}
# The name takes what is left: 150 pixels or more. The details of a chosen worker say what a narrow table leaves out.
COLUMNS = [
    Column("id", "Worker"),
    Column("state", "State", "badge", 112),
    Column("heard", "Heard", "ago", 92, title="Its last heartbeat or other word"),
    Column("owned", "Partitions", "chips", 132, hide_below=880),
    Column("in_flight", "In flight", "number", 84, title="Records that it holds"),
    Column("oldest", "Oldest", "seconds", 82, hide_below=960, title="Age of the record that it holds longest"),
    Column("headroom", "Headroom", "seconds", 96, 1360, "What is left until the group evicts it for not polling"),
    Column("rate", "Files /s", "rate", 80, hide_below=720),
    Column("finished", "Finished", "number", 90, hide_below=1260),
    Column("failed", "Failed", "number", 70, hide_below=1260),
    Column("cpu", "CPU", "percent", 66, hide_below=1100),
    Column("memory", "Memory", "bytes", 92, hide_below=1100),
    Column("starts", "Starts", "number", 66, hide_below=1440),
]
CLOCK_PIXELS = 104
CLOCK = Column(
    "clock",
    "Clock",
    "text",
    CLOCK_PIXELS,
    title="The worker's own clock, compared with the database's. All times on this page are the database's.",
)


def _workers(data: PageData, _snapshot: CachedValue[Snapshot]) -> None:
    stack = data.stack()
    wanted = st.query_params.get("state", "")
    page = max(1, int(text) if (text := st.query_params.get("page", "")).isdecimal() and len(text) < 9 else 1)
    text = st.query_params.get("find", "")[:NAME_CHARACTERS]
    query = WorkerQuery(wanted, text, offset=PAGE_WORKERS * (page - 1), limit=PAGE_WORKERS)
    reading = data.workers(query)
    workers = reading.value.items if reading.value is not None else []
    counts = reading.value.counts if reading.value is not None else None
    old, since = reading.error is not None, reading.age_seconds or 0.0
    matching = 0 if counts is None else sum(count for state, count in counts.items() if wanted in ("", state.value))
    with st.container(key="filters", horizontal=True, vertical_alignment="bottom"):
        with st.container(key="tile-row"):
            _tiles(counts, wanted, old=old)
        if page > 1 or matching > PAGE_WORKERS or text:
            search_box("Find a worker", "Find by name", "find", live="500ms", width=220)
        if stack is not None:
            _scale(data, stack)
    show_inline_notice("worker-outcome", st.session_state.get("worker_outcome"))
    known = set(processors(stack)) if stack is not None else set()
    data_grid(
        "workers",
        _columns(workers),
        [_row(worker, since, worker.id in known, stack is not None) for worker in workers],
        label="Workers",
        empty=_empty(reading, wanted, embedded=stack is not None),
        stale=old,
        selected=st.query_params.get("worker"),
        on_open=lambda worker_id: update_view(worker="" if st.query_params.get("worker") == worker_id else worker_id),
        on_action=lambda worker_id, act: _on_action(data, worker_id, act),
    )
    _pages(page, matching)
    name = st.query_params.get("worker", "")
    chosen = next((worker for worker in workers if worker.id == name), None)
    if chosen is None and 0 < len(name) <= NAME_CHARACTERS:  # on another page of the list
        found = data.workers(WorkerQuery(ids=(name,))).value
        chosen = next(iter(found.items), None) if found is not None else None
    if chosen is not None:
        _details(data, chosen)


def _pages(page: int, matching: int) -> None:
    """Where the page is in the list, and the way to its neighbours; nothing where there is one only."""
    if page == 1 and matching <= PAGE_WORKERS:
        return
    first, last = PAGE_WORKERS * (page - 1) + 1, min(PAGE_WORKERS * page, matching)
    with st.container(key="worker-pages", horizontal=True, vertical_alignment="center"):
        st.caption(f"{first:,} to {last:,} of {matching:,} workers" if first <= last else f"{matching:,} workers")
        for label, other, there in (("Previous", page - 1, page > 1), ("Next", page + 1, last < matching)):
            st.button(
                label, key=f"workers-{label}", disabled=not there, on_click=update_view, kwargs={"page": str(other)}
            )


def _tiles(counts: dict[WorkerCondition, int] | None, wanted: str, *, old: bool) -> None:
    tiles = [Tile("", "All workers", None if counts is None else sum(counts.values()), "none")]
    tiles += [
        Tile(state.value, state.value.capitalize(), None if counts is None else counts[state], TONES[state])
        for state in WorkerCondition
    ]
    filter_tiles(
        "states",
        tiles,
        wanted,
        label="Filter by state",
        stale=old,
        on_choice=lambda state: update_view(state=state, page=""),
    )


def _scale(data: PageData, stack: StackState) -> None:
    now = len(processors(stack))
    with st.popover(f"Scale: {now}", key="scale-menu", help="How many file processors this stack runs"):
        wanted = st.number_input("File processors", 0, PROCESSORS_MAX, now, key="scale-count")
        order = SupervisorCommand("scale", role="processor", count=int(wanted or 0))
        st.button(
            f"Have {wanted} instead of {now}" if wanted != now else f"{now} run already",
            key="scale-go",
            type="primary",
            width="stretch",
            disabled=wanted == now,
            on_click=_send_supervisor_command,
            args=(data, order, f"{wanted} file processors from now on"),
        )
        for verb in (WorkerCommandKind.QUIET, WorkerCommandKind.RESUME):
            st.button(
                f"{_VERBS[verb]} all",
                key=f"all-{verb}",
                width="stretch",
                on_click=_send_command,
                args=(data, verb, None),
            )


_VERBS = {WorkerCommandKind.QUIET: "Quiet", WorkerCommandKind.RESUME: "Resume"}


def _row(worker: WorkerView, since: float, ours: bool, embedded: bool) -> TableRow:
    vitals = worker.vitals
    gone = worker.condition in (WorkerCondition.DEAD, WorkerCondition.STOPPED)
    breaker = vitals.breaker if vitals is not None and not gone else None
    quiet = vitals is not None and vitals.quiet and not gone
    note = " · quiet" if quiet else " · pauses" if breaker else ""
    why_not = "It is gone" if gone else ""
    why_no_signal = "" if ours else "This stack did not start it" if embedded else "Stop it where it was started"
    live = None if gone else vitals
    return TableRow(
        worker.id,
        {
            "id": worker.id,
            "state": (worker.condition.value + note, TONES[worker.condition]),
            "heard": worker.heard_seconds_ago + since,
            "clock": _clock(worker),
            "owned": _partitions(worker.owned, CHIPS_SHOWN) if not gone else [],
            "in_flight": live.in_flight if live else None,
            "oldest": live.oldest_seconds if live and live.in_flight else None,
            "headroom": live.headroom_seconds if live else None,
            "rate": live.finished_per_second if live else None,
            "finished": vitals.finished if vitals else None,
            "failed": vitals.failed if vitals else None,
            "cpu": worker.cpu_share if not gone else None,
            "memory": live.rss_bytes if live else None,
            "starts": worker.starts,
        },
        actions=[
            RowAction("resume", "Resume", why_not) if quiet else RowAction("quiet", "Quiet", why_not),
            RowAction("stop", "Stop", why_no_signal),
            RowAction("kill", "Kill", why_no_signal, danger=True),
        ],
        tone="bad"
        if worker.condition is WorkerCondition.DEAD
        else "warn"
        if worker.condition is WorkerCondition.STUCK
        else None,
        titles={"state": f"{MEANINGS[worker.condition]}{f'; {breaker}' if breaker else ''}"},
    )


def _columns(workers: list[WorkerView]) -> list[Column]:
    """With one for the clocks where one is wrong."""
    if not any(_is_off(worker) for worker in workers):
        return COLUMNS
    others = [replace(one, hide_below=one.hide_below and one.hide_below + CLOCK_PIXELS) for one in COLUMNS]
    return [*others[:3], CLOCK, *others[3:]]


def _clock(worker: WorkerView) -> str | None:
    """How far a worker's clock is off; None where that is not known."""
    skew = worker.skew_seconds
    if skew is None or not _is_off(worker):
        return None if skew is None else "correct"
    return f"{format_rounded(abs(skew))} {'ahead' if skew > 0 else 'behind'}"


def _is_off(worker: WorkerView) -> bool:
    return worker.skew_seconds is not None and abs(worker.skew_seconds) >= SKEW_WARNING_SECONDS


def _partitions(owned: list[int], shown: int = PARTITIONS_SHOWN) -> list[str]:
    """The first of them; where some are left out, the last of `shown` says how many."""
    names = [f"P{partition}" for partition in owned]
    return names if len(names) <= shown else [*names[: shown - 1], f"+{len(names) - shown + 1:,}"]


def _empty(reading: CachedValue[WorkerPage], wanted: str, *, embedded: bool) -> tuple[str, str]:
    if reading.value is None:
        return "Not known yet", "Workers report over Kafka, and the status sync stores it."
    if wanted:
        return f"No worker is {wanted}", "Lift the filter to see the others."
    how = "Choose how many above." if embedded else "Start one: `filemill run processor`."
    return "No worker was heard of within a day", how


def _on_action(data: PageData, worker_id: str, act: str) -> None:
    match act:
        case "quiet" | "resume":
            _send_command(data, WorkerCommandKind(act), worker_id)
        case "stop":
            _send_supervisor_command(
                data, SupervisorCommand("stop", worker=worker_id), f"{worker_id} was stopped for good"
            )
        case "kill":
            _send_supervisor_command(
                data, SupervisorCommand("kill", worker=worker_id), f"{worker_id} was killed; it is started again"
            )


def _send_command(data: PageData, order: WorkerCommandKind, worker_id: str | None) -> None:
    said = {WorkerCommandKind.QUIET: "told to take nothing new", WorkerCommandKind.RESUME: "told to go on"}[order]
    try:
        send_worker_command(data, order, worker_id, ACTOR)
        _set_outcome("good", f"{worker_id or 'All workers'}: {said}")
    except (Unavailable, UnknownWorker) as error:
        _set_outcome("bad", "Not told", str(error))


def _send_supervisor_command(data: PageData, order: SupervisorCommand, said: str) -> None:
    stack = data.stack()
    if stack is None:
        _set_outcome("bad", "Not done", "The stack does not run any more.")
        return
    try:
        send_supervisor_command(data, stack, order, ACTOR)
        _set_outcome("good", said)
    except (Unavailable, CommandRejected) as error:
        _set_outcome("bad", "Not done", str(error))


def _set_outcome(tone: str, what: str, text: str = "") -> None:
    st.session_state["worker_outcome"] = Notice(tone, what, text)


def _details(data: PageData, worker: WorkerView) -> None:
    files, events = data.worker_files(worker.id), data.worker_events(worker.id)
    with st.container(key="columns", horizontal=True, gap="large"):
        with st.container(key="left"):
            st.html('<div class="section">What the chosen worker has in hand</div>')
            data_grid(
                "in-hand",
                [
                    Column("id", "File", "text", 90),
                    Column("title", "Title"),
                    Column("partition", "Partition", "number", 84),
                    Column("step", "Step", "text", 84),
                    Column("attempt", "Attempt", "number", 78),
                    Column("seconds", "For", "seconds", 84),
                ],
                [
                    TableRow(
                        str(file.id),
                        {
                            "id": f"#{file.id}",
                            "title": file.title,
                            "partition": file.partition,
                            "step": f"{file.step or 0} of {file.steps}" if file.steps else "begun",
                            "attempt": file.attempt,
                            "seconds": file.seconds,
                        },
                    )
                    for file in files.value or []
                ],
                label="Files in progress",
                empty=(f"{worker.id} has no file in progress", "What takes less than a second is not reported."),
                stale=files.error is not None,
                on_open=lambda file_id: page_shell.navigate_to("file", id=file_id),
            )
        with st.container(key="right"):
            facts("vitals", _vitals(worker), title="How it fares")
            steps = [_step(event) for event in reversed(events.value or [])][-30:]
            timeline_of("said", steps[::-1], title="What it said", empty="Nothing but heartbeats within a day.")


def _vitals(worker: WorkerView) -> list[Fact]:
    """What a narrow table leaves out."""
    vitals = worker.vitals if worker.condition not in (WorkerCondition.DEAD, WorkerCondition.STOPPED) else None
    owned = ", ".join(_partitions(worker.owned)) or "none"
    finished = f"{worker.vitals.finished:,}, {worker.vitals.failed:,} of them failed" if worker.vitals else None
    oldest = vitals.oldest_seconds if vitals and vitals.in_flight else None
    return [
        Fact("Worker", worker.id),
        Fact("Partitions", owned if vitals else None),
        Fact("Oldest record", None if oldest is None else format_duration(oldest)),
        Fact(
            "Headroom",
            format_duration(vitals.headroom_seconds) if vitals and vitals.headroom_seconds is not None else None,
        ),
        Fact("CPU", f"{100 * worker.cpu_share:.0f} %" if vitals and worker.cpu_share is not None else None),
        Fact("Memory", f"{vitals.rss_bytes / 2**20:.0f} MiB" if vitals and vitals.rss_bytes is not None else None),
        Fact("Finished", finished),
        Fact("Files /s", f"{vitals.finished_per_second:.1f}" if vitals else None),
        Fact("Starts", f"{worker.starts:,}"),
        Fact("Clock", _clock(worker)),
    ]


_EVENT_TONES = {
    EventKind.STARTED: "good",
    EventKind.ASSIGNED: "busy",
    EventKind.REVOKED: "warn",
    EventKind.LOST: "bad",
    EventKind.DEAD_LETTERED: "bad",
    EventKind.RETRYING: "warn",
    EventKind.BREAKER_OPENED: "warn",
}


def _step(event: WorkerEvent) -> TimelineEntry:
    parts = ", ".join(_partitions(event.partitions))
    about = [f"file #{event.file_id}" if event.file_id else "", parts, event.cause or "", event.error or ""]
    epoch = f"epoch {event.epoch}" if event.epoch is not None else ""
    detail = " · ".join(part for part in (*about, epoch) if part)
    what = event.kind.value.replace("-", " ").capitalize()
    return TimelineEntry(event.timestamp, what, detail, _EVENT_TONES.get(event.kind, "none"), event.trace or "")


page_shell.render_page(_workers)
