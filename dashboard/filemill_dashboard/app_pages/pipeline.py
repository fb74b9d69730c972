"""Pipeline: the stages with their counts, the consumer group, and what blocks requests."""

import time

import streamlit as st

from filemill.domain.files import epoch_milliseconds
from filemill.queries.overview import Overview
from filemill.queries.workers import WorkerQuery
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.add_partitions import add_partitions_button, add_partitions_dialog
from filemill_dashboard.components.assignment import assignment
from filemill_dashboard.components.chart import Annotation
from filemill_dashboard.components.chart_annotations import annotations_of, annotations_of_processes
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.flow_strip import flow_strip
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.lag_chart import lag_chart
from filemill_dashboard.components.notebook_link import notebook_link
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.offset_dialog import offset_dialog, reset_button
from filemill_dashboard.components.outbox_chart import outbox_chart
from filemill_dashboard.components.queue_filter import queue_selector
from filemill_dashboard.components.queue_table import queue_table
from filemill_dashboard.components.rebalance_chart import rebalance_chart
from filemill_dashboard.components.resubmit import resubmit_button
from filemill_dashboard.components.role_facts import role_facts
from filemill_dashboard.components.view_url import select_option
from filemill_dashboard.state import page_data
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.views.advice import Advice, advise, is_stale, lag_age, lost_requests, recreated_topics, trend
from filemill_dashboard.views.group_view import GroupView, view_group
from filemill_dashboard.views.plurals import counted
from filemill_dashboard.views.rebalances import ownership_changes, ownership_periods
from filemill_dashboard.views.visibility import Visibility

PERIODS = {"5 min": 300, "15 min": 900, "1 h": 3600, "6 h": 21_600, "24 h": 86_400}
PERIOD_DEFAULT = "15 min"
MOVES_SHOWN = 12
# The workers whose states the page compares with the group; live ones come first.
WORKERS_MAX = 100
MOVES = [
    Column("at", "Time", "moment", 178),
    Column("partition", "Partition", "mono", 82),
    Column("owners", "From → to"),
    Column("reason", "Reason", "text", 90),
    Column("epoch", "Epoch", "number", 66, hide_below=640),
    Column("pause", "Pause", "seconds", 84, title="Time without an owner"),
]


def _pipeline(data: PageData, reading: CachedValue[Snapshot]) -> None:
    snapshot, stale = reading.value, reading.error is not None
    overview = snapshot.overview if snapshot else None
    visibility = data.visibility()
    known = _known_group(data, overview, visibility)
    # What is learned through Kafka is dimmed while it is unknown; rows of PostgreSQL are not.
    dimmed = stale or not _group_known(overview, reading, visibility)
    readers = known.readers if known else None
    flow_strip(snapshot, stale=stale, readers=readers, visibility=visibility, group_known=not dimmed)
    lost = overview.lost_requests if overview and not stale and visibility.settled else None
    show_notices("losses", [_notice(one) for one in lost_requests(lost)])
    if lost:
        resubmit_button(data, lost)
    show_notices("advice", _advice(data, overview, known, visibility) if overview and not stale else [])
    _queues(data, dimmed=dimmed)
    with st.container(key="columns", horizontal=True, gap="medium"):
        with st.container(key="left"):
            queue = _lag(data, overview, dimmed=dimmed)
            _rebalances(data, visibility, queue)
            _outbox(data, overview)
            facts("roles", role_facts(data, overview, visibility), title="Active roles", stale=stale)
        with st.container(key="right"):
            with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
                page_shell.section_heading("Assignment")
                with st.container(key="group-actions", horizontal=True, width="content", gap="small"):
                    add_partitions_button(overview)
                    reset_button(data, overview)
            assignment(overview.group if overview else None, overview.lags if overview else None, stale=dimmed)
            lines = _group_facts(data, overview, reading, known, visibility)
            facts("group", lines, title="Consumer group", stale=dimmed)
    if st.session_state.pop("open_dialog", False):
        st.rerun(scope="app")  # the next refresh would close a dialog that a fragment opened


def _group_known(overview: Overview | None, reading: CachedValue[Snapshot], visibility: Visibility) -> bool:
    """Whether the latest sample of the group describes the present."""
    group = overview.group if overview else None
    return visibility.group_known(None if group is None else group.age_seconds + (reading.age_seconds or 0.0))


def _known_group(data: PageData, overview: Overview | None, visibility: Visibility) -> GroupView | None:
    """Return the group with what is known of its workers."""
    if overview is None or overview.group is None:
        return None
    page = data.workers(WorkerQuery(limit=WORKERS_MAX)).value
    workers = page.items if page is not None else []
    processes = data.local_processes()
    states = {worker.id: visibility.worker_state(worker, processes.get(worker.id)) for worker in workers}
    quiet = {worker.id for worker in workers if worker.vitals is not None and worker.vitals.quiet}
    return view_group(overview.group, states, quiet)


def _queues(data: PageData, *, dimmed: bool) -> None:
    if len(data.services.settings.all_queues) > 1:
        reading = data.queues()
        page_shell.section_heading("Queues")
        queue_table(reading.value, stale=dimmed or reading.error is not None)


def _annotations(data: PageData, period_seconds: int) -> list[Annotation]:
    """Return what happened in the period: operations, faults, and starts and ends of servers and workers."""
    since = time.time() - period_seconds
    steps = [step for step in data.process_steps() if step.at >= since]
    return [*annotations_of(data.chart_operations(period_seconds)), *annotations_of_processes(steps)]


def _lag(data: PageData, overview: Overview | None, *, dimmed: bool) -> str:
    """Draw the lag; returns the queue that was selected for the charts."""
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        page_shell.section_heading("Lag per partition")
        with st.container(key="period-bar", horizontal=True, vertical_alignment="center", width="content"):
            queue = queue_selector(data)
            selected = select_option("Period", list(PERIODS), PERIOD_DEFAULT, "period")
            notebook_link(period=PERIODS[selected])
    period = PERIODS[selected]
    history = data.lag_history(period, queue)
    as_of = overview.as_of if overview else None
    stale = dimmed or history.error is not None
    lag_chart(history.value, period, as_of, _annotations(data, period), stale=stale)
    return queue


def _outbox(data: PageData, overview: Overview | None) -> None:
    period = PERIODS[st.session_state.get("period") or PERIOD_DEFAULT]
    reading = data.outbox_history(period)
    as_of = overview.as_of if overview else None
    page_shell.section_heading("Outbox")
    outbox_chart(reading.value, period, as_of, _annotations(data, period), stale=reading.error is not None)


def _rebalances(data: PageData, visibility: Visibility, queue: str) -> None:
    period = PERIODS[st.session_state.get("period") or PERIOD_DEFAULT]
    reading = data.ownership(period, queue)
    ownership, stale = reading.value, reading.error is not None or not visibility.events_known
    known = {"events_known": visibility.events_known, "silence_known": visibility.silence_known}
    periods = ownership_periods(ownership, **known) if ownership else []
    page_shell.section_heading("Partition owners")
    rebalance_chart(ownership, periods, period, _annotations(data, period), stale=stale)
    changes = ownership_changes(ownership, periods) if ownership else []
    data_grid(
        "moves",
        MOVES,
        [
            TableRow(
                f"{change.partition}-{epoch_milliseconds(change.at)}-{change.worker}",
                {
                    "at": epoch_milliseconds(change.at),
                    "partition": f"P{change.partition}",
                    "owners": f"{change.previous_owner or 'none'} → {change.worker}",
                    "reason": change.previous_end_reason or "",
                    "epoch": change.epoch,
                    "pause": change.pause_seconds,
                },
            )
            for change in changes[:MOVES_SHOWN]
        ],
        label="Partition reassignments",
        empty=("No reassignments in this period", "Partitions are reassigned when a worker starts, stops or fails."),
        stale=stale,
    )


def _advice(data: PageData, overview: Overview, known: GroupView | None, visibility: Visibility) -> list[Notice]:
    if not visibility.settled:
        return []
    advice = advise(
        overview.group,
        overview.lags,
        overview.outbox,
        overview.leases,
        overview.stalled,
        unknown_ids=overview.unknown_ids,
        interval_seconds=data.services.settings.monitor_interval_seconds,
        view=known,
        visibility=visibility,
        embedded=data.stack() is not None,
    )
    return [_notice(one) for one in [*recreated_topics(overview.recreated_topics), *advice]]


def _notice(advice: Advice) -> Notice:
    return Notice(advice.tone, advice.what, advice.text)


def _group_facts(
    data: PageData,
    overview: Overview | None,
    reading: CachedValue[Snapshot],
    known: GroupView | None,
    visibility: Visibility,
) -> list[Fact]:
    group = overview.group if overview else None
    lags = overview.lags if overview else None
    since = reading.age_seconds or 0.0
    old = is_stale(group, data.services.settings.monitor_interval_seconds)
    old = old or not _group_known(overview, reading, visibility)
    unknown = f"unknown: {visibility.obstacle}" if visibility.cause else "unknown: not sampled" if old else ""
    state = Fact("State", None) if known is None else Fact("State", known.state, tone=known.tone)
    if unknown and group is not None:
        state = Fact("State", unknown, tone="none")
    former = f", and {counted(known.former, 'former one')} until the session ends" if known and known.former else ""
    outlook = trend(lags.total, overview.flow, known.readers if known else None) if lags and overview else None
    return [
        Fact("Group", data.services.settings.group_id, mono=True),
        state,
        Fact("Protocol", group.protocol if group else None),
        Fact("Members", f"{len(known.members)}{former}" if known else None),
        Fact("Total lag", f"{lags.total:,}" if lags and lags.total is not None else None),
        Fact("Time lag", lag_age(lags.behind_seconds) if lags and not unknown else None),
        Fact("Trend", None if unknown else outlook),
        Fact("Sampled", f"{group.age_seconds + since:.0f} s ago" if group else None),
    ]


page_shell.render_page("Pipeline", _pipeline)
if not add_partitions_dialog(page_data.current()):
    offset_dialog(page_data.current())
