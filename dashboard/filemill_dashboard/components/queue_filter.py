"""The filter by queue. Its value is stored in the URL."""

import streamlit as st

from filemill_dashboard.components.view_url import update_view
from filemill_dashboard.state.page_data import PageData

KEY = "queue"
_ALL = "All queues"


def queue_filter(data: PageData) -> str:
    """Draw the control; returns the selected queue, "" for all. Not drawn if there is only one queue."""
    queues = list(data.services.settings.all_queues)
    if len(queues) == 1:
        return ""
    if KEY not in st.session_state:
        asked = st.query_params.get(KEY, "")
        st.session_state[KEY] = asked if asked in queues else _ALL

    def apply() -> None:
        chosen = st.session_state[KEY]
        update_view(queue="" if chosen == _ALL else chosen)

    chosen = st.selectbox("Queue", [_ALL, *queues], key=KEY, label_visibility="collapsed", width=140, on_change=apply)
    return "" if chosen == _ALL else str(chosen)
