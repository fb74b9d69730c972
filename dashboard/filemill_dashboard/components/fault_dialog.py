"""The dialog that confirms a fault: its target and its duration."""

from typing import Any

import streamlit as st

from filemill.errors import Forbidden, Unavailable
from filemill.runtime.supervisor_client import FAULT_SECONDS_MAX, CommandRejected
from filemill.services.faults import FaultOption, inject
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.principals import page_principal

SECONDS_DEFAULT = 10
_REQUESTED = "fault_requested"
OUTCOME = "fault_outcome"


def open_fault_dialog(option: FaultOption) -> None:
    """Request the dialog; the next run of the whole page opens it. For use in callbacks."""
    st.session_state.update({_REQUESTED: option, "open_dialog": True})


def fault_dialog(data: PageData) -> None:
    """Open the dialog if it was requested."""
    option: FaultOption | None = st.session_state.get(_REQUESTED)
    if option is None:
        return

    def close() -> None:
        st.session_state.pop(_REQUESTED, None)

    def body() -> None:
        st.write(f"{option.effect[0].upper()}{option.effect[1:]}. Accepted requests are not lost; they wait.")
        seconds: Any = SECONDS_DEFAULT
        if option.has_duration:
            seconds = st.number_input("Seconds", 1, int(FAULT_SECONDS_MAX), SECONDS_DEFAULT, key="fault-seconds")
        notice_area = st.container()
        problem = None
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Cancel", key="fault-cancel"):
                close()
                st.rerun()
            if st.button(_label(option), key="fault-go", type="primary"):
                problem = _inject(data, option, float(seconds or SECONDS_DEFAULT))
                if problem is None:
                    done = Notice("good", f"{option.target}: {option.kind}", "The fault is marked on all charts.")
                    st.session_state[OUTCOME] = done
                    close()
                    st.rerun()
        with notice_area:
            show_notices("fault-refused", [Notice("bad", "Fault not injected", problem)] if problem else [])

    st.dialog(f"Inject a fault into {option.label}?", on_dismiss=close)(body)()


def _label(option: FaultOption) -> str:
    """The button's label. It has no duration, which would be that of before the last key press."""
    return f"{'Kill' if option.kind == 'killed' else 'Stop'} {option.label}"


def _inject(data: PageData, option: FaultOption, seconds: float) -> str | None:
    stack = data.stack()
    if stack is None:
        return "The stack is no longer running."
    try:
        inject(data.services.engine, stack, option, seconds, page_principal())
    except (CommandRejected, Forbidden, Unavailable) as error:
        return str(error)
    data.invalidate()
    return None
