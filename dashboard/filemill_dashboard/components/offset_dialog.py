"""The dialog that resets the group's offsets. It previews which records are skipped and which are reprocessed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import streamlit as st

from filemill.domain.permissions import Permission
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.errors import Forbidden, Unavailable
from filemill.queries.overview import Overview
from filemill.services.offset_reset import (
    CannotReset,
    InvalidTarget,
    ResetPlan,
    ResetTarget,
    UnfinishedPolicy,
    members_refusal,
)
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.jobs import Job, JobRunning
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.principals import page_principal, why_not
from filemill_dashboard.views.plurals import counted

_REQUESTED = "offsets_requested"
TARGETS = {"Earliest": "earliest", "Latest": "latest", "Time": "time", "Shift": "shift"}
UNFINISHED_ACTIONS: dict[str, UnfinishedPolicy] = {"Resubmit them": "resubmit", "Cancel them": "cancel"}
SHIFT_MAX = 10_000_000
PREVIEW = [
    Column("partition", "Partition", "mono", 82),
    Column("current", "Current", "number"),
    Column("new", "New", "number"),
    Column("difference", "Difference", "mono", 100),
    Column("skipped", "Skipped, unfinished", "number", 140, title="Unfinished files whose records would be skipped"),
    Column("repeated", "Reprocessed", "number", 92),
]


def reset_button(data: PageData, overview: Overview | None) -> None:
    """Draw the button. If it is disabled, its tooltip gives the reason."""
    st.button(
        "Reset offsets …",
        key="offsets-open",
        disabled=bool(reason := _disabled_reason(data, overview)),
        help=reason or "Reset the consumer group's offsets; a preview shows what would be skipped",
        on_click=open_offset_dialog,
    )


def open_offset_dialog() -> None:
    """Request the dialog; the next run of the whole page opens it. For use in callbacks."""
    st.session_state.update({_REQUESTED: {}, "open_dialog": True})


def offset_dialog(data: PageData) -> None:
    """Open the dialog if it was requested."""
    state: dict[str, Any] | None = st.session_state.get(_REQUESTED)
    if state is None:
        return

    def close() -> None:
        st.session_state.pop(_REQUESTED, None)

    def body() -> None:
        queue = _queue(data)
        target, problem = _target()
        if (queue, target) != (state.get("queue"), state.get("target")):
            state.clear()  # the preview was for another target
        if st.button("Preview", key="offsets-preview", disabled=target is None) and target is not None:
            found, problem = _plan(data, queue, target)
            state.update(queue=queue, target=target, plan=found)
        notice_area = st.container()
        plan: ResetPlan | None = state.get("plan")
        then: UnfinishedPolicy = "resubmit"
        if plan is not None:
            then = _preview(plan)
            problem = problem or plan.why_not
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Cancel", key="offsets-cancel"):
                close()
                st.rerun()
            can = plan is not None and plan.why_not is None and bool(plan.offsets)
            pressed = st.button(_label(plan, then), key="offsets-go", type="primary", disabled=not can)
            if pressed and plan is not None and target is not None:
                problem = _start(data, queue, plan, target, then)
                if problem is None:
                    close()
                    st.rerun()
        with notice_area:
            show_notices("offsets-problem", [Notice("warn", "Cannot reset offsets", problem)] if problem else [])

    st.dialog("Reset consumer group offsets", on_dismiss=close, width="large")(body)()


def _disabled_reason(data: PageData, overview: Overview | None) -> str | None:
    if reason := why_not(Permission.RESET_OFFSETS):
        return reason
    if data.services.settings.offsets_group is None:
        return "A share group has no committed offsets"
    group = overview.group if overview else None
    return "The members of the group are not known" if group is None else members_refusal(len(group.members))


def _target() -> tuple[ResetTarget | None, str | None]:
    """Return the target that the controls select, or None and the reason why the input is invalid."""
    kind = st.segmented_control("Reset to", list(TARGETS), default="Earliest", required=True, key="offsets-target")
    if kind == "Shift":
        by = st.number_input("Shift by records (negative: backwards)", -SHIFT_MAX, SHIFT_MAX, -100, key="offsets-by")
        return ResetTarget("shift", by=int(by or 0)), None
    if kind == "Time":
        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        text = st.text_input("Time (UTC)", f"{an_hour_ago:%Y-%m-%d %H:%M}", key="offsets-at")
        try:
            moment = datetime.fromisoformat(str(text).strip())
            return ResetTarget("time", at=moment if moment.tzinfo else moment.replace(tzinfo=UTC)), None
        except ValueError:
            return None, "Invalid time. Use the format 2026-11-22 12:00"
    return ResetTarget("latest" if kind == "Latest" else "earliest"), None


def _queue(data: PageData) -> str:
    """The queue whose offsets are reset; without a control if there is only one."""
    queues = list(data.services.settings.all_queues)
    if len(queues) == 1:
        return queues[0]
    chosen = st.segmented_control("Queue", queues, default=DEFAULT_QUEUE, required=True, key="offsets-queue")
    return str(chosen or DEFAULT_QUEUE)


def _plan(data: PageData, queue: str, target: ResetTarget) -> tuple[ResetPlan | None, str | None]:
    try:
        return data.services.offset_reset(queue).plan(target), None
    except (Unavailable, InvalidTarget) as error:
        return None, str(error)


def _preview(plan: ResetPlan) -> UnfinishedPolicy:
    """Draw the preview. Return the action for unfinished files that would be skipped."""
    data_grid(
        "offsets-preview-table",
        PREVIEW,
        [
            TableRow(
                str(move.partition),
                {
                    "partition": f"P{move.partition}",
                    "current": move.current,
                    "new": move.new,
                    "difference": f"{move.difference:+,}" if move.difference else "0",
                    "skipped": len(move.skipped),
                    "repeated": move.repeated,
                },
                tone="warn" if move.skipped else None,
            )
            for move in plan.moves
        ],
        label="Preview of the reset",
        empty=("The topic has no partitions", "Check that the topic exists, on the Set-up page."),
    )
    if plan.repeated:
        st.caption("Reprocessed records produce the same objects. A finished file keeps its status.")
    if not plan.skipped:
        return "resubmit"
    label = f"{counted(len(plan.skipped), 'unfinished request')} would be skipped"
    selected = st.radio(label, list(UNFINISHED_ACTIONS), key="offsets-then", horizontal=True)
    return UNFINISHED_ACTIONS[selected or "Resubmit them"]


def _label(plan: ResetPlan | None, then: UnfinishedPolicy) -> str:
    if plan is None:
        return "Preview first"
    if not plan.offsets:
        return "No offset changes"
    moves = f"Reset {counted(len(plan.offsets), 'partition')}"
    return f"{moves}, {then} {len(plan.skipped):,}" if plan.skipped else moves


def _start(data: PageData, queue: str, plan: ResetPlan, target: ResetTarget, then: UnfinishedPolicy) -> str | None:
    """Start a job that resets the offsets. Return the reason if it cannot start."""
    principal = page_principal()  # a job has no viewer

    def work(job: Job) -> None:
        def count(files: int) -> None:
            job.done += files  # not `advance`: a stop between cancel and resubmit would leave some files cancelled

        try:
            data.services.offset_reset(queue).apply(plan, target, then, principal, count)
        except (CannotReset, Forbidden) as refused:
            job.error = str(refused)

    steps = len(plan.skipped) * (2 if then == "resubmit" else 1)
    try:
        of_queue = "" if queue == DEFAULT_QUEUE else f" of {queue}"
        data.jobs.start(f"Reset offsets{of_queue} to {target}", steps or None, work)
    except JobRunning as busy:
        return str(busy)
    return None
