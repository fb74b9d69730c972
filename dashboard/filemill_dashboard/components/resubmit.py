"""The button that submits again what is gone from Kafka."""

import streamlit as st

from filemill_dashboard.state.bulk import resubmit_all
from filemill_dashboard.state.jobs import JobRunning
from filemill_dashboard.state.page_data import PageData

ACTOR = "page"


def resubmit_button(data: PageData, requests: int) -> None:
    """Draw it. `requests`: how many were gone when last counted; what is gone by then is looked up afresh."""

    def start() -> None:
        try:
            data.jobs.start("Resubmit requests that are gone", requests, resubmit_all(data.services, ACTOR))
        except JobRunning as busy:
            st.toast(str(busy))

    label = f"Resubmit {requests:,} request{'' if requests == 1 else 's'}"
    st.button(label, key="resubmit-gone", on_click=start, help="Each gets a new run, which goes through the outbox")
