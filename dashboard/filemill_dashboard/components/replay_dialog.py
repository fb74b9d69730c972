"""The dialog that replays dead letters: a dry run first, then a job with a rate limit."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import streamlit as st

from filemill.domain.dead_letters import DeadLetter, reason_fingerprint
from filemill.errors import Forbidden
from filemill.services.dead_letters import MAX_RUNS
from filemill_dashboard.components.bars import bars
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.jobs import Job, JobRunning
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.principals import page_principal
from filemill_dashboard.views.plurals import counted

RATE_DEFAULT = 50
RATE_MAX = 1000
_REQUESTED = "replay_requested"


def open_replay_dialog(letters: Sequence[DeadLetter]) -> None:
    """Request the dialog; the next run of the whole page opens it. For use in callbacks."""
    st.session_state.update({_REQUESTED: list(letters), "replay_state": {}, "open_dialog": True})


def replay_dialog(data: PageData) -> bool:
    """Open the dialog if it was requested, and return whether it was."""
    letters: list[DeadLetter] | None = st.session_state.get(_REQUESTED)
    if letters is None:
        return False
    state: dict[str, Any] = st.session_state["replay_state"]

    def close() -> None:
        st.session_state.pop(_REQUESTED, None)

    def body() -> None:
        with st.container(horizontal=True):
            rate = st.number_input("Maximum rate (files/s)", 1, RATE_MAX, RATE_DEFAULT, key="replay-rate")
            max_runs = st.number_input("Maximum runs per file", 1, 1000, MAX_RUNS, key="replay-runs")
        try:
            dry = data.services.replay(letters, page_principal(), rate=1, dry_run=True, max_runs=int(max_runs or 1))
        except Forbidden as error:
            show_notices("replay-refused", [Notice("bad", "Not replayed", str(error))])
            return
        st.write(f"**{counted(len(dry.files), 'file')}** would get a new run.")
        bars("replay-reasons", dry.reasons, "", label="Reasons", empty="None", on_choice=lambda _name: None)
        if dry.refused:
            st.caption(f"{counted(len(dry.refused), 'is', 'are')} skipped:")
            why = Counter(reason_fingerprint(reason) for reason in dry.refused.values())
            ordered = dict(why.most_common())
            bars("replay-refused", ordered, "", label="Refused", empty="", tone="none", on_choice=lambda _name: None)
        show_notices(
            "replay-busy", [Notice("warn", "Another job is running", state["busy"])] if "busy" in state else []
        )
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Cancel", key="replay-cancel"):
                close()
                st.rerun()
            label = f"Replay {counted(len(dry.files), 'file')}"
            if st.button(label, key="replay-go", type="primary", disabled=not dry.files):
                try:
                    work = _work(data, letters, float(rate or 1), int(max_runs or 1))
                    data.jobs.start(label, len(dry.files), work)
                except JobRunning as busy:
                    state["busy"] = str(busy)
                    st.rerun(scope="fragment")
                close()
                st.rerun()

    st.dialog("Replay dead letters", on_dismiss=close, width="medium")(body)()
    return True


def _work(data: PageData, letters: Sequence[DeadLetter], rate: float, max_runs: int) -> Any:  # noqa: ANN401 - a job's work
    principal = page_principal()  # a job has no viewer

    def work(job: Job) -> None:
        def progress(done: int) -> None:
            job.advance(done - job.done)

        result = data.services.replay(letters, principal, rate=rate, max_runs=max_runs, progress=progress)
        job.refused = len(result.refused)

    return work
