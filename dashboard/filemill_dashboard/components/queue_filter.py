"""The filter by queue. Its value is stored in the URL."""

import streamlit as st

from filemill_dashboard.components.view_url import store_in_url, url_changed
from filemill_dashboard.state.page_data import PageData

KEY = "queue"
_ALL = "All queues"


def queue_filter(data: PageData) -> str:
    """Draw the control; returns the selected queue, "" for all. Not drawn if there is only one queue."""
    queues = list(data.services.settings.all_queues)
    if len(queues) == 1:
        return ""
    if url_changed(KEY) or KEY not in st.session_state:
        in_url = st.query_params.get(KEY, "")
        st.session_state[KEY] = in_url if in_url in queues else _ALL

    def apply() -> None:
        chosen = st.session_state[KEY]
        store_in_url(KEY, "" if chosen == _ALL else chosen)

    chosen = st.selectbox("Queue", [_ALL, *queues], key=KEY, label_visibility="collapsed", width=140, on_change=apply)
    return "" if chosen == _ALL else str(chosen)
