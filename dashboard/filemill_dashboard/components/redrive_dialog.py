"""The dialog that sends dead letters through once more: a dry run first, then at a rate, as a job."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import streamlit as st

from filemill.domain.dead_letters import DeadLetter
from filemill.services import dead_letters
from filemill_dashboard.components.bars import bars
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.jobs import Job, JobRunning
from filemill_dashboard.state.page_data import PageData

ACTOR = "page"
RATE_DEFAULT = 50
RATE_MAX = 1000
_WANTED = "redrive_wanted"


def open_replay_dialog(letters: Sequence[DeadLetter]) -> None:
    """Ask for the dialog (`opening`), which a run of the whole page opens. For callbacks."""
    st.session_state.update({_WANTED: list(letters), "redrive_state": {}, "opening": True})


def replay_dialog(data: PageData) -> None:
    """Open the dialog, where it was asked for."""
    letters: list[DeadLetter] | None = st.session_state.get(_WANTED)
    if letters is None:
        return
    state: dict[str, Any] = st.session_state["redrive_state"]

    def close() -> None:
        st.session_state.pop(_WANTED, None)

    def body() -> None:
        with st.container(horizontal=True):
            rate = st.number_input("Files a second, at most", 1, RATE_MAX, RATE_DEFAULT, key="redrive-rate")
            max_runs = st.number_input("Runs a file may have had", 1, 1000, dead_letters.MAX_RUNS, key="redrive-runs")
        dry = dead_letters.replay(
            data.services.engine, letters, actor=ACTOR, rate=1, dry_run=True, max_runs=int(max_runs or 1)
        )
        st.write(f"**{len(dry.files):,} files** would get a new run.")
        bars("redrive-reasons", dry.reasons, "", label="Reasons", empty="None of them.", on_choice=lambda _name: None)
        if dry.refused:
            st.caption(f"{len(dry.refused):,} are left alone:")
            why = Counter(dead_letters.likeness(reason) for reason in dry.refused.values())
            ordered = dict(why.most_common())
            bars("redrive-refused", ordered, "", label="Refused", empty="", tone="none", on_choice=lambda _name: None)
        show_notices("redrive-busy", [Notice("warn", "Not now", state["busy"])] if "busy" in state else [])
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Leave them", key="redrive-leave"):
                close()
                st.rerun()
            label = f"Replay {len(dry.files):,} files"
            if st.button(label, key="redrive-go", type="primary", disabled=not dry.files):
                try:
                    work = _work(data, letters, float(rate or 1), int(max_runs or 1))
                    data.jobs.start(label, len(dry.files), work)
                except JobRunning as busy:
                    state["busy"] = str(busy)
                    st.rerun(scope="fragment")
                close()
                st.rerun()

    st.dialog("Send dead letters through once more", on_dismiss=close, width="medium")(body)()


def _work(data: PageData, letters: Sequence[DeadLetter], rate: float, max_runs: int) -> Any:  # noqa: ANN401 - a job's work
    def work(job: Job) -> None:
        def progress(done: int) -> None:
            data.services.wake_relay()
            job.advance(done - job.done)

        result = dead_letters.replay(
            data.services.engine,
            letters,
            actor=ACTOR,
            rate=rate,
            dry_run=False,
            max_runs=max_runs,
            progress=progress,
        )
        job.refused = len(result.refused)

    return work
