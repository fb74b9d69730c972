"""The button that resubmits requests whose records are no longer on Kafka."""

import streamlit as st

from filemill.domain.permissions import Permission
from filemill_dashboard.state.bulk import resubmit_all
from filemill_dashboard.state.jobs import JobRunning
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.principals import page_principal, why_not
from filemill_dashboard.views.plurals import counted

_EFFECT = "Each request gets a new run through the outbox"


def resubmit_button(data: PageData, requests: int) -> None:
    """Draw the button. `requests` is the last known count; the job determines the current requests itself."""

    def start() -> None:
        try:
            data.jobs.start("Resubmit lost requests", requests, resubmit_all(data.services, page_principal()))
        except JobRunning as busy:
            st.toast(str(busy))

    reason = why_not(Permission.RETRY_FILES)
    label = f"Resubmit {counted(requests, 'request')}"
    st.button(label, key="resubmit-gone", on_click=start, disabled=bool(reason), help=reason or _EFFECT)
