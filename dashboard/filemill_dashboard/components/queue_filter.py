"""The filter by queue. Its value is stored in the URL."""

import streamlit as st

from filemill_dashboard.components.view_url import update_view
from filemill_dashboard.state.page_data import PageData

KEY = "queue"
_KNOWN = "queue-in-url"
_ALL = "All queues"


def queue_filter(data: PageData) -> str:
    """Draw the control; returns the selected queue, "" for all. Not drawn if there is only one queue."""
    queues = list(data.services.settings.all_queues)
    if len(queues) == 1:
        return ""
    # The URL also changes without the control: by Back and Forward of the browser, by a link, and by a new file.
    in_url = st.query_params.get(KEY, "")
    if KEY not in st.session_state or in_url != st.session_state.get(_KNOWN):
        st.session_state[KEY] = in_url if in_url in queues else _ALL
    st.session_state[_KNOWN] = in_url

    def apply() -> None:
        chosen = st.session_state[KEY]
        st.session_state[_KNOWN] = "" if chosen == _ALL else chosen
        update_view(queue=st.session_state[_KNOWN])

    chosen = st.selectbox("Queue", [_ALL, *queues], key=KEY, label_visibility="collapsed", width=140, on_change=apply)
    return "" if chosen == _ALL else str(chosen)
