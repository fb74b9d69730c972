"""The dialog that breaks a part of the stack: what, for how long, and that one means it."""

from typing import Any

import streamlit as st

from filemill.errors import Unavailable
from filemill.runtime.supervisor_client import FAULT_SECONDS_MAX, CommandRejected
from filemill.services.faults import Offer, inject
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.page_data import PageData

ACTOR = "page"
SECONDS_DEFAULT = 10
_WANTED = "fault_wanted"
OUTCOME = "fault_outcome"


def open_fault_dialog(offer: Offer) -> None:
    """Ask for the dialog (`opening`), which a run of the whole page opens. For callbacks."""
    st.session_state.update({_WANTED: offer, "opening": True})


def fault_dialog(data: PageData) -> None:
    """Open the dialog, where it was asked for."""
    offer: Offer | None = st.session_state.get(_WANTED)
    if offer is None:
        return

    def close() -> None:
        st.session_state.pop(_WANTED, None)

    def body() -> None:
        st.write(f"{offer.does[0].upper()}{offer.does[1:]}. Nothing that was accepted is lost by it; it waits.")
        seconds: Any = SECONDS_DEFAULT
        if offer.lasts:
            seconds = st.number_input("Seconds", 1, int(FAULT_SECONDS_MAX), SECONDS_DEFAULT, key="fault-seconds")
        said = st.container()
        problem = None
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Leave it alone", key="fault-leave"):
                close()
                st.rerun()
            if st.button(_label(offer, seconds), key="fault-go", type="primary"):
                problem = _inject(data, offer, float(seconds or SECONDS_DEFAULT))
                if problem is None:
                    done = Notice("good", f"{offer.target}: {offer.kind}", "The charts show its bar.")
                    st.session_state[OUTCOME] = done
                    close()
                    st.rerun()
        with said:
            show_notices("fault-refused", [Notice("bad", "Not done", problem)] if problem else [])

    st.dialog(f"Break {offer.label}?", on_dismiss=close)(body)()


def _label(offer: Offer, seconds: Any) -> str:  # noqa: ANN401 - a number input's value
    verb = "Kill" if offer.kind == "killed" else "Stop"
    return f"{verb} {offer.label} for {seconds} s" if offer.lasts else f"{verb} {offer.label}"


def _inject(data: PageData, offer: Offer, seconds: float) -> str | None:
    stack = data.stack()
    if stack is None:
        return "The stack does not run any more."
    try:
        inject(data.services.engine, stack, offer, seconds, ACTOR)
    except (CommandRejected, Unavailable) as error:
        return str(error)
    data.invalidate()
    return None
