"""Workers: their states and current files; and the commands quiet, stop, kill and scale."""

from dataclasses import dataclass, replace
from typing import Literal

import streamlit as st

from filemill.domain.files import iso_milliseconds
from filemill.domain.permissions import Permission
from filemill.domain.worker_commands import WorkerCommandKind
from filemill.domain.worker_events import (
    FORGET_AFTER_SECONDS,
    SKEW_WARNING_SECONDS,
    EventKind,
    WorkerCondition,
    WorkerEvent,
)
from filemill.errors import Conflict, Forbidden, Unavailable
from filemill.queries.history import AuditEntry
from filemill.queries.workers import WorkerQuery, WorkerView
from filemill.runtime.stack_state import StackState
from filemill.runtime.supervisor_client import CommandRejected, OutcomeUnknown, SupervisorCommand
from filemill.services.operations import UnknownWorker
from filemill.services.stack_workers import PROCESSORS_MAX, processors, send_supervisor_command
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.confirmation import confirmation
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.filter_tiles import Tile, filter_tiles
from filemill_dashboard.components.grid import Column, RowAction, TableRow, data_grid
from filemill_dashboard.components.handler_table import handler_table
from filemill_dashboard.components.menu import close_menu, menu
from filemill_dashboard.components.notices import Notice, show_inline_notice
from filemill_dashboard.components.timeline import event_timeline
from filemill_dashboard.components.view_url import search_box, update_view
from filemill_dashboard.state import page_data
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot, WorkerPage
from filemill_dashboard.state.principals import page_principal, why_not
from filemill_dashboard.views.durations import format_duration, format_rounded
from filemill_dashboard.views.file_timeline import TimelineEntry
from filemill_dashboard.views.plurals import counted
from filemill_dashboard.views.process_story import ends_of, process_entries
from filemill_dashboard.views.visibility import SETTLE_SECONDS, ShownState, Visibility, shown_counts

PAGE_WORKERS = 50
PARTITIONS_SHOWN = 12
EVENTS_SHOWN = 30
# The number of chips that fit into the column.
CHIPS_SHOWN = 3
NAME_CHARACTERS = 200
SCALE_MENU = "scale-menu"
_REQUESTED = "signal_requested"
TONES = {
    ShownState.BUSY: "busy",
    ShownState.IDLE: "good",
    ShownState.STUCK: "warn",
    ShownState.DEAD: "bad",
    ShownState.STOPPED: "none",
    ShownState.STARTING: "busy",
    ShownState.SUSPENDED: "warn",
    ShownState.SILENT: "bad",
    ShownState.UNKNOWN: "none",
}
MEANINGS = {
    ShownState.BUSY: "processes records",
    ShownState.IDLE: "has no records",
    ShownState.STUCK: "sends heartbeats and holds records, but finishes none",
    ShownState.DEAD: "missed three heartbeats and did not report a stop",
    ShownState.STOPPED: "reported its stop",
    ShownState.STARTING: "its process has started and has not reported yet",
    ShownState.SUSPENDED: "its process is stopped (SIGSTOP) and continues with SIGCONT",
    ShownState.SILENT: "its process runs, but it sends no heartbeats",
}
EFFECTS = {
    "stop": "It finishes or gives back its records, leaves the group, and is not restarted. Its partitions move to the "
    "other workers.",
    "kill": "It ends at once (SIGKILL) and is restarted. Other workers reprocess what it had in flight, once its "
    "session has timed out.",
}
FOREIGN = "Not started by this stack"
ELSEWHERE = "Stop it where it was started"
# The name takes the remaining width, at least 150 pixels. The details of a worker show what a narrow table hides.
COLUMNS = [
    Column("id", "Worker"),
    Column("state", "State", "badge", 132),
    Column("last_event", "Last event", "ago", 92, title="Last heartbeat or other event"),
    Column("owned", "Partitions", "chips", 132),
    Column("in_flight", "In flight", "number", 84, title="Records that it is processing"),
    Column("oldest", "Oldest", "seconds", 82, hide_below=960, title="Age of its oldest record in flight"),
    Column("headroom", "Headroom", "seconds", 96, 1360, "Time left until max.poll.interval.ms at its last poll"),
    Column("rate", "Files /s", "rate", 80, hide_below=880, title="Between its last two heartbeats"),
    Column("finished", "Finished", "number", 90, hide_below=1260),
    Column("failed", "Failed", "number", 70, hide_below=1260),
    Column("cpu", "CPU", "percent", 66, hide_below=1100),
    Column("memory", "Memory", "bytes", 92, hide_below=1100),
    Column("starts", "Starts", "number", 66, hide_below=1440),
]
PROCESSES_SHOWN = 30
CLOCK_PIXELS = 104
CLOCK = Column(
    "clock",
    "Clock",
    "text",
    CLOCK_PIXELS,
    title="The worker's own clock, compared with the database's. All times on this page are the database's.",
)


def _workers(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    stack = data.stack()
    state_filter = st.query_params.get("state", "")
    page = max(1, int(text) if (text := st.query_params.get("page", "")).isdecimal() and len(text) < 9 else 1)
    text = st.query_params.get("find", "")[:NAME_CHARACTERS]
    query = WorkerQuery(state_filter, text, offset=PAGE_WORKERS * (page - 1), limit=PAGE_WORKERS)
    reading = data.workers(query)
    workers = reading.value.items if reading.value is not None else []
    counts = reading.value.counts if reading.value is not None else None
    visibility, processes = data.visibility(), data.local_processes()
    # The states are learned through Kafka: while they are unknown, the last known values are dimmed.
    stale, age_seconds = reading.error is not None or not visibility.events_known, reading.age_seconds or 0.0
    shown = {worker.id: visibility.worker_state(worker, processes.get(worker.id)) for worker in workers}
    matching = (
        0 if counts is None else sum(count for state, count in counts.items() if state_filter in ("", state.value))
    )
    with st.container(key="filters", horizontal=True, vertical_alignment="bottom"):
        with st.container(key="tile-row"):
            known = None if counts is None else shown_counts(counts, shown, workers)
            _tiles(known, state_filter, visibility, stale=stale)
        if page > 1 or matching > PAGE_WORKERS or text:
            search_box("Search workers", "Search by name", "find", live="500ms", width=220)
        if stack is not None:
            _scale(data, stack)
    show_inline_notice("worker-outcome", st.session_state.get("worker_outcome"))
    ours = set(processors(stack)) if stack is not None else set()
    unsure = _unsure_of_partitions(workers, visibility, snapshot)
    data_grid(
        "workers",
        _columns(workers),
        [
            _row(
                worker,
                shown[worker.id],
                age_seconds,
                _ReasonsNot(
                    command=visibility.obstacle if not visibility.events_known else "",
                    signal="" if worker.id in ours else FOREIGN if stack is not None else ELSEWHERE,
                ),
                _meaning(shown[worker.id], visibility, restarts=worker.id in processes),
                unsure=worker.id in unsure,
            )
            for worker in workers
        ],
        label="Workers",
        empty=_empty(reading, state_filter, embedded=stack is not None),
        stale=stale,
        selected=st.query_params.get("worker"),
        on_open=lambda worker_id: update_view(worker="" if st.query_params.get("worker") == worker_id else worker_id),
        on_action=lambda worker_id, action: _on_action(data, worker_id, action),
    )
    _pages(page, matching)
    name = st.query_params.get("worker", "")
    selected = next((worker for worker in workers if worker.id == name), None)
    if selected is None and 0 < len(name) <= NAME_CHARACTERS:  # on another page of the list
        listed = data.workers(WorkerQuery(ids=(name,))).value
        selected = next(iter(listed.items), None) if listed is not None else None
    if selected is not None:
        state = visibility.worker_state(selected, processes.get(selected.id))
        _details(data, selected, state, _member_ids(snapshot.value, selected.id))
    handlers = data.handlers()
    events_known = visibility.events_known
    handler_table(handlers.value, stale=handlers.error is not None or not events_known, workers_known=events_known)
    if stack is not None:
        _processes(data)
    if st.session_state.pop("open_dialog", False):
        st.rerun(scope="app")  # the next refresh would close a dialog that a fragment opened


def _processes(data: PageData) -> None:
    """Draw the starts and ends of all processes of the stack: the servers, relay, sync, monitor, and the workers."""
    newest = data.process_steps()[::-1][:PROCESSES_SHOWN]
    event_timeline(
        "processes",
        process_entries(newest),
        title="Starts and ends of servers and workers",
        empty="No process of this stack has started or ended in the last 24 hours.",
    )


def _pages(page: int, matching: int) -> None:
    """Draw the position in the list and links to the neighbouring pages, if there are several."""
    if page == 1 and matching <= PAGE_WORKERS:
        return
    first, last = PAGE_WORKERS * (page - 1) + 1, min(PAGE_WORKERS * page, matching)
    workers = counted(matching, "worker")
    with st.container(key="worker-pages", horizontal=True, vertical_alignment="center"):
        st.caption(f"{first:,} to {last:,} of {workers}" if first <= last else workers)
        for label, other, there in (("Previous", page - 1, page > 1), ("Next", page + 1, last < matching)):
            st.button(
                label, key=f"workers-{label}", disabled=not there, on_click=update_view, kwargs={"page": str(other)}
            )


def _tiles(counts: dict[ShownState, int] | None, selected: str, visibility: Visibility, *, stale: bool) -> None:
    def count(state: WorkerCondition) -> int | None:
        known = visibility.silence_known if state is WorkerCondition.DEAD else visibility.events_known
        return counts[ShownState(state.value)] if counts is not None and known else None

    tiles = [Tile("", "All workers", None if counts is None else sum(counts.values()), "none")]
    tiles += [
        Tile(state.value, state.value.capitalize(), count(state), TONES[ShownState(state.value)])
        for state in WorkerCondition
    ]
    filter_tiles(
        "states",
        tiles,
        selected,
        label="Filter by state",
        stale=stale,
        on_choice=lambda state: update_view(state=state, page=""),
    )


def _scale(data: PageData, stack: StackState) -> None:
    now = len(processors(stack))
    with menu(f"Scale: {now}", SCALE_MENU, help="Number of file processors of this stack"):
        count = st.number_input("File processors", 0, PROCESSORS_MAX, now, key="scale-count")
        manage_reason = why_not(Permission.MANAGE_WORKERS)
        command_reason = why_not(Permission.COMMAND_WORKERS)
        command = SupervisorCommand("scale", role="processor", count=int(count or 0))
        st.button(
            f"Scale from {now} to {count}" if count != now else f"Already {now}",
            key="scale-go",
            type="primary",
            width="stretch",
            disabled=count == now or bool(manage_reason),
            help=manage_reason or None,
            on_click=_scale_to,
            args=(data, command),
        )
        for verb in (WorkerCommandKind.QUIET, WorkerCommandKind.RESUME):
            st.button(
                f"{_VERBS[verb]} all",
                key=f"all-{verb}",
                width="stretch",
                disabled=bool(command_reason),
                help=command_reason or None,
                on_click=_command_all,
                args=(data, verb),
            )


def _scale_to(data: PageData, command: SupervisorCommand) -> None:
    close_menu(SCALE_MENU)
    _send_supervisor_command(data, command, f"Scaled to {counted(command.count, 'file processor')}")


def _command_all(data: PageData, command: WorkerCommandKind) -> None:
    close_menu(SCALE_MENU)
    _send_command(data, command, None)


_VERBS = {WorkerCommandKind.QUIET: "Quiet", WorkerCommandKind.RESUME: "Resume"}


@dataclass(frozen=True)
class _ReasonsNot:
    """Why a worker takes no command, and why it cannot be stopped here; empty if it can."""

    command: str
    signal: str


def _meaning(state: ShownState, visibility: Visibility, *, restarts: bool) -> str:
    """Return what a state means, for its tooltip."""
    if state is ShownState.UNKNOWN:
        return f"Its state is unknown: {visibility.obstacle or 'it has sent nothing for some seconds'}"
    if state is ShownState.DEAD and restarts:
        return "its process has ended; the stack restarts it"
    return MEANINGS[state]


def _unsure_of_partitions(
    workers: list[WorkerView], visibility: Visibility, snapshot: CachedValue[Snapshot]
) -> set[str]:
    """The workers whose partitions are not known although events arrive.

    After an outage, the events of a worker that the group has expelled arrive, too: until the worker has noticed, only
    the group's next sample tells.
    """
    if visibility.served_seconds >= SETTLE_SECONDS or not visibility.events_known:
        return set()
    group = snapshot.value.overview.group if snapshot.value is not None else None
    age_seconds = None if group is None else group.age_seconds + (snapshot.age_seconds or 0.0)
    sampled = group.members if group is not None and visibility.group_known(age_seconds) else []
    owned = {member.client_id: member.partitions for member in sampled}
    return {worker.id for worker in workers if owned.get(worker.id) != worker.owned}


def _row(
    worker: WorkerView, state: ShownState, age_seconds: float, reasons: _ReasonsNot, meaning: str, *, unsure: bool
) -> TableRow:
    vitals = worker.vitals
    gone = state in (ShownState.DEAD, ShownState.STOPPED)
    certain = state not in (ShownState.UNKNOWN, ShownState.STARTING, ShownState.SILENT) and not gone
    breaker = vitals.breaker if vitals is not None and certain else None
    quiet = vitals is not None and vitals.quiet and certain
    note = " · quiet" if quiet else " · paused" if breaker else ""
    command_reason = "The worker has stopped" if gone else reasons.command or why_not(Permission.COMMAND_WORKERS)
    signal_reason = reasons.signal or why_not(Permission.MANAGE_WORKERS)
    live = None if gone else vitals
    return TableRow(
        worker.id,
        {
            "id": worker.id,
            "state": (state.value + note, TONES[state]),
            "last_event": worker.heard_seconds_ago + age_seconds,
            "clock": _clock(worker),
            "owned": [] if gone else ["unknown"] if unsure else _partitions(worker.owned, CHIPS_SHOWN),
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
        actions=[RowAction("forget", "Forget", why_not(Permission.FORGET_WORKERS))]
        if _can_be_forgotten(worker, state, age_seconds)
        else [
            RowAction("resume", "Resume", command_reason) if quiet else RowAction("quiet", "Quiet", command_reason),
            RowAction("stop", "Stop", signal_reason),
            RowAction("kill", "Kill", signal_reason, danger=True),
        ],
        tone=TONES[state] if TONES[state] in ("bad", "warn") else None,
        titles={"state": f"{meaning}{f'; {breaker}' if breaker else ''}"},
    )


def _can_be_forgotten(worker: WorkerView, state: ShownState, age_seconds: float) -> bool:
    silent = worker.heard_seconds_ago + age_seconds > FORGET_AFTER_SECONDS
    return state is ShownState.STOPPED or (state is ShownState.DEAD and silent)


def _columns(workers: list[WorkerView]) -> list[Column]:
    """Return the columns, with one for clocks if a clock is wrong."""
    if not any(_is_off(worker) for worker in workers):
        return COLUMNS
    others = [replace(one, hide_below=one.hide_below and one.hide_below + CLOCK_PIXELS) for one in COLUMNS]
    return [*others[:3], CLOCK, *others[3:]]


def _clock(worker: WorkerView) -> str | None:
    """Return how far a worker's clock is off, or None if unknown."""
    skew = worker.skew_seconds
    if skew is None or not _is_off(worker):
        return None if skew is None else "correct"
    return f"{format_rounded(abs(skew))} {'ahead' if skew > 0 else 'behind'}"


def _is_off(worker: WorkerView) -> bool:
    return worker.skew_seconds is not None and abs(worker.skew_seconds) >= SKEW_WARNING_SECONDS


def _partitions(owned: list[int], shown: int = PARTITIONS_SHOWN) -> list[str]:
    """Return the first partitions. If some are left out, the last item is their number."""
    names = [f"P{partition}" for partition in owned]
    return names if len(names) <= shown else [*names[: shown - 1], f"+{len(names) - shown + 1:,}"]


def _empty(reading: CachedValue[WorkerPage], state_filter: str, *, embedded: bool) -> tuple[str, str]:
    if reading.value is None:
        return "No data yet", "Workers report over Kafka, and the status sync stores their events."
    if state_filter:
        return f"No {state_filter} workers", "Remove the filter to see all workers."
    hint = "Scale the file processors above." if embedded else "Start one: `filemill run processor`."
    return "No workers in the last 24 hours", hint


def _on_action(data: PageData, worker_id: str, action: str) -> None:
    match action:
        case "quiet" | "resume":
            _send_command(data, WorkerCommandKind(action), worker_id)
        case "forget":
            _forget(data, worker_id)
        case "stop" | "kill":
            st.session_state.update({_REQUESTED: (action, worker_id), "open_dialog": True})


def _shown(data: PageData, worker: WorkerView) -> ShownState:
    return data.visibility().worker_state(worker, data.local_processes().get(worker.id))


def signal_dialog(data: PageData) -> None:
    """Open the dialog that confirms Stop or Kill, if it was requested."""
    requested: tuple[Literal["stop", "kill"], str] | None = st.session_state.get(_REQUESTED)
    if requested is None:
        return
    action, worker_id = requested
    verb = action.capitalize()

    def about() -> str:
        page = data.workers(WorkerQuery(ids=(worker_id,))).value
        worker = next(iter(page.items), None) if page is not None else None
        live = worker.vitals if worker is not None else None
        lines = [
            Fact("Worker", worker_id, mono=True),
            Fact("State", None if worker is None else _shown(data, worker).value),
            Fact("Partitions", None if worker is None else ", ".join(_partitions(worker.owned)) or "none"),
            Fact("In flight", None if live is None else f"{live.in_flight:,}"),
        ]
        facts("signal-target", lines)
        st.caption(EFFECTS[action])
        return f"{verb} {worker_id}"

    def act() -> str | None:
        done = "was stopped" if action == "stop" else "was killed and will be restarted"
        return _send_supervisor_command(data, SupervisorCommand(action, worker=worker_id), f"{worker_id} {done}")

    def close() -> None:
        st.session_state.pop(_REQUESTED, None)

    confirmation("signal", f"{verb} a worker", about, act, close, failure="Command not executed")


def _send_command(data: PageData, command: WorkerCommandKind, worker_id: str | None) -> None:
    message = {WorkerCommandKind.QUIET: "quiet requested", WorkerCommandKind.RESUME: "resume requested"}[command]
    try:
        data.services.operations.command_workers(command, worker_id, page_principal())
        _set_outcome("good", f"{worker_id or 'All workers'}: {message}")
    except (Forbidden, Unavailable, UnknownWorker) as error:
        _set_outcome("bad", "Command not sent", str(error))


def _forget(data: PageData, worker_id: str) -> None:
    try:
        data.services.operations.forget_workers([worker_id], page_principal())
        _set_outcome("good", f"{worker_id}: forgotten", "Its events are kept.")
    except (Conflict, Forbidden, Unavailable, UnknownWorker) as error:
        _set_outcome("bad", "Not forgotten", str(error))
    data.invalidate_workers()
    if st.query_params.get("worker") == worker_id:
        update_view(worker="")


def _send_supervisor_command(data: PageData, command: SupervisorCommand, message: str) -> str | None:
    """Send a command to the supervisor, show the outcome, and return why it failed."""
    stack = data.stack()
    problem: str | None = "The stack is no longer running."
    if stack is not None:
        try:
            send_supervisor_command(data.services.engine, stack, command, page_principal())
            problem = None
        except OutcomeUnknown as error:
            _set_outcome("warn", "Outcome unknown", str(error))
            return None
        except (Forbidden, Unavailable, CommandRejected) as error:
            problem = str(error)
    if problem is None:
        _set_outcome("good", message)
    else:
        _set_outcome("bad", "Command not executed", problem)
    return problem


def _set_outcome(tone: str, title: str, text: str = "") -> None:
    st.session_state["worker_outcome"] = Notice(tone, title, text)


def _member_ids(snapshot: Snapshot | None, worker_id: str) -> list[str]:
    """The ids by which Kafka knows a worker in the consumer group; several right after a restart."""
    group = snapshot.overview.group if snapshot is not None else None
    return [member.member_id for member in group.members if member.client_id == worker_id] if group is not None else []


def _details(data: PageData, worker: WorkerView, state: ShownState, member_ids: list[str]) -> None:
    files, events = data.worker_files(worker.id), data.worker_events(worker.id)
    with st.container(key="columns", horizontal=True, gap="large"):
        with st.container(key="left"):
            page_shell.section_heading("Files in progress")
            data_grid(
                "in-progress",
                [
                    Column("id", "File", "text", 90),
                    Column("title", "Title"),
                    Column("partition", "Partition", "number", 84),
                    Column("step", "Step", "text", 84),
                    Column("attempt", "Attempt", "number", 78),
                    Column("seconds", "Duration", "seconds", 84),
                ],
                [
                    TableRow(
                        str(file.id),
                        {
                            "id": f"#{file.id}",
                            "title": file.title,
                            "partition": file.partition,
                            "step": f"{file.step or 0} of {file.steps}" if file.steps else "started",
                            "attempt": file.attempt,
                            "seconds": file.seconds,
                        },
                    )
                    for file in files.value or []
                ],
                label="Files in progress",
                empty=(f"{worker.id} has no file in progress", "Files that take less than a second are not reported."),
                stale=files.error is not None,
                on_open=lambda file_id: page_shell.navigate_to("file", id=file_id),
            )
        with st.container(key="right"):
            process = f"{worker.pid} on {worker.host}" if worker.pid is not None else None
            identity = [
                Fact("Member id", ", ".join(member_ids) or None, mono=True),
                Fact("Process", process, mono=True),
                Fact("Started", iso_milliseconds(worker.started_at) if worker.started_at else None, mono=True),
            ]
            lines = [*_vitals(worker, state), *identity]
            facts("vitals", lines, title="Status", stale=state is ShownState.UNKNOWN)
            steps = [*_steps(events.value or []), *_operations(data.operations().value or [], worker.id)]
            steps += process_entries(ends_of(data.process_steps(), worker.id))
            newest = sorted(steps, key=lambda step: step.at, reverse=True)[:EVENTS_SHOWN]
            event_timeline("events", newest, title="Events", empty="Only heartbeats in the last 24 hours.")


def _vitals(worker: WorkerView, state: ShownState) -> list[Fact]:
    """Return the values that a narrow table hides."""
    vitals = worker.vitals if state not in (ShownState.DEAD, ShownState.STOPPED) else None
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


_OPERATIONS = {
    "stack.kill": ("Killed", "bad"),
    "stack.stop": ("Stop requested", "warn"),
    WorkerCommandKind.QUIET.value: ("Quiet requested", "warn"),
    WorkerCommandKind.RESUME.value: ("Resume requested", "good"),
}


def _operations(entries: list[AuditEntry], worker_id: str) -> list[TimelineEntry]:
    """What people and programs did to a worker."""
    found = []
    for entry in entries:
        if "refused" in entry.detail:
            continue
        if entry.action == "fault" and entry.detail.get("target") == worker_id:
            fault = f"Fault injected: {entry.detail.get('fault')}"
            found.append(TimelineEntry(entry.at, fault, f"by {entry.actor}", "bad"))
        elif entry.action in _OPERATIONS and entry.detail.get("worker") in (worker_id, None):
            what, tone = _OPERATIONS[entry.action]
            everyone = " · all workers" if entry.detail.get("worker") is None else ""
            found.append(TimelineEntry(entry.at, what, f"by {entry.actor}{everyone}", tone))
    return found


def _steps(events: list[WorkerEvent]) -> list[TimelineEntry]:
    """The events, newest first. A start without a stop before it is a restart after a kill or a crash."""
    steps = []
    for place, event in enumerate(events):
        step = _step(event)
        before = events[place + 1] if place + 1 < len(events) else None
        if event.kind is EventKind.STARTED and before is not None and before.kind is not EventKind.STOPPED:
            step = replace(step, what="Restarted", detail="the process before it ended without a stop", tone="warn")
        steps.append(step)
    return steps


def _step(event: WorkerEvent) -> TimelineEntry:
    parts = ", ".join(_partitions(event.partitions))
    about = [f"file #{event.file_id}" if event.file_id else "", parts, event.cause or "", event.error or ""]
    epoch = f"epoch {event.epoch}" if event.epoch is not None else ""
    detail = " · ".join(part for part in (*about, epoch) if part)
    title = event.kind.name.replace("_", " ").capitalize()
    return TimelineEntry(event.timestamp, title, detail, _EVENT_TONES.get(event.kind, "none"), event.trace or "")


page_shell.render_page("Workers", _workers)
signal_dialog(page_data.current())
