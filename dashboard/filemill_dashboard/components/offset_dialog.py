"""The dialog that moves the group's offsets: where to, what that skips and repeats, and what becomes of the skipped."""

from datetime import UTC, datetime, timedelta
from typing import Any

import streamlit as st

from filemill.errors import Unavailable
from filemill.queries.group import Overview
from filemill.services.offset_reset import CannotReset, InvalidTarget, Plan, Target, Unfinished, refusal
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.jobs import Job, JobRunning
from filemill_dashboard.state.page_data import PageData

ACTOR = "page"
_WANTED = "offsets_wanted"
TARGETS = {"Earliest": "earliest", "Latest": "latest", "Time": "time", "Shift": "shift"}
UNFINISHED_ACTIONS: dict[str, Unfinished] = {"Resubmit them": "resubmit", "Cancel them": "cancel"}
SHIFT_MAX = 10_000_000
PREVIEW = [
    Column("partition", "Partition", "mono", 82),
    Column("current", "Current", "number"),
    Column("new", "New", "number"),
    Column("difference", "Difference", "mono", 100),
    Column("skipped", "Unfinished, skipped", "number", 140, title="Files that have not ended and would not be read"),
    Column("repeated", "Read again", "number", 92),
]


def reset_button(data: PageData, overview: Overview | None) -> None:
    """Draw the button; it says why where it cannot be used now."""
    st.button(
        "Reset offsets …",
        key="offsets-open",
        disabled=bool(why_not := _disabled_reason(data, overview)),
        help=why_not or "Have the group read from elsewhere; what that would skip is counted first",
        on_click=open_offset_dialog,
    )


def open_offset_dialog() -> None:
    """Ask for the dialog (`opening`), which a run of the whole page opens. For callbacks."""
    st.session_state.update({_WANTED: {}, "opening": True})


def offset_dialog(data: PageData) -> None:
    """Open the dialog, where it was asked for."""
    state: dict[str, Any] | None = st.session_state.get(_WANTED)
    if state is None:
        return

    def close() -> None:
        st.session_state.pop(_WANTED, None)

    def body() -> None:
        target, problem = _target()
        if target != state.get("target"):
            state.clear()  # a preview of something else
        if st.button("Preview", key="offsets-preview", disabled=target is None) and target is not None:
            found, problem = _plan(data, target)
            state.update(target=target, plan=found)
        said = st.container()
        plan: Plan | None = state.get("plan")
        then: Unfinished = "resubmit"
        if plan is not None:
            then = _preview(plan)
            problem = problem or plan.why_not
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Leave them", key="offsets-leave"):
                close()
                st.rerun()
            can = plan is not None and plan.why_not is None and bool(plan.offsets)
            pressed = st.button(_label(plan, then), key="offsets-go", type="primary", disabled=not can)
            if pressed and plan is not None and target is not None:
                problem = _start(data, plan, target, then)
                if problem is None:
                    close()
                    st.rerun()
        with said:
            show_notices("offsets-problem", [Notice("warn", "Not now", problem)] if problem else [])

    st.dialog("Reset the group's offsets", on_dismiss=close, width="large")(body)()


def _disabled_reason(data: PageData, overview: Overview | None) -> str | None:
    if data.services.settings.offsets_group is None:
        return "A share group has no offsets of this kind"
    group = overview.group if overview else None
    return "Who is in the group is not known" if group is None else refusal(len(group.members))


def _target() -> tuple[Target | None, str | None]:
    """What the controls ask for; or None and what is wrong with it."""
    way = st.segmented_control("Where to", list(TARGETS), default="Earliest", required=True, key="offsets-way")
    if way == "Shift":
        by = st.number_input("Records, negative: back", -SHIFT_MAX, SHIFT_MAX, -100, key="offsets-by")
        return Target("shift", by=int(by or 0)), None
    if way == "Time":
        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        said = st.text_input("Time (UTC)", f"{an_hour_ago:%Y-%m-%d %H:%M}", key="offsets-at")
        try:
            moment = datetime.fromisoformat(str(said).strip())
            return Target("time", at=moment if moment.tzinfo else moment.replace(tzinfo=UTC)), None
        except ValueError:
            return None, "That is no time: write it as 2026-11-22 12:00"
    return Target("latest" if way == "Latest" else "earliest"), None


def _plan(data: PageData, target: Target) -> tuple[Plan | None, str | None]:
    try:
        return data.services.offset_reset.plan(target), None
    except (Unavailable, InvalidTarget) as error:
        return None, str(error)


def _preview(plan: Plan) -> Unfinished:
    """Draw what it would do; what is to become of the skipped."""
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
        label="What a reset would do",
        empty=("The topic has no partitions", "Is it there? See the page Set-up."),
    )
    if plan.repeated:
        st.caption("What is read again is made again, with the same bytes; a file that has ended keeps its status.")
    if not plan.skipped:
        return "resubmit"
    label = f"{len(plan.skipped):,} requests that have not ended would be skipped"
    chosen = st.radio(label, list(UNFINISHED_ACTIONS), key="offsets-then", horizontal=True)
    return UNFINISHED_ACTIONS[chosen or "Resubmit them"]


def _label(plan: Plan | None, then: Unfinished) -> str:
    if plan is None:
        return "Preview it first"
    if not plan.offsets:
        return "Nothing would move"
    count = len(plan.offsets)
    moves = f"Move {count} partition{'s' if count > 1 else ''}"
    return f"{moves}, {then} {len(plan.skipped):,}" if plan.skipped else moves


def _start(data: PageData, plan: Plan, target: Target, then: Unfinished) -> str | None:
    """Have a job do it; what is wrong, if it cannot begin."""

    def work(job: Job) -> None:
        def count(files: int) -> None:
            job.done += files  # and not `advance`: stopped between cancelling and resubmitting, some would stay behind

        try:
            data.services.offset_reset.apply(plan, target, then, ACTOR, count)
        except CannotReset as refused:
            job.error = str(refused)
        data.services.wake_relay()

    steps = len(plan.skipped) * (2 if then == "resubmit" else 1)
    try:
        data.jobs.start(f"Offsets to {target}", steps or None, work)
    except JobRunning as busy:
        return str(busy)
    return None
