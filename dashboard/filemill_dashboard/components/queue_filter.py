"""The filter by queue, and the choice of one. Their value is stored in the URL."""

import streamlit as st

from filemill.domain.queues import DEFAULT_QUEUE
from filemill_dashboard.components.view_url import store_in_url, url_changed
from filemill_dashboard.state.page_data import PageData

KEY = "queue"
_ALL = "All queues"


def queue_filter(data: PageData) -> str:
    """Draw the control; returns the selected queue, "" for all. Not drawn if there is only one queue."""
    chosen = _select(data, [_ALL, *data.services.settings.all_queues], _ALL)
    return "" if chosen == _ALL else chosen


def queue_selector(data: PageData) -> str:
    """Draw the control for one queue, at first `default`, and return it. Not drawn if there is only one queue."""
    return _select(data, list(data.services.settings.all_queues), DEFAULT_QUEUE)


def _select(data: PageData, options: list[str], default: str) -> str:
    if len(data.services.settings.all_queues) == 1:
        return default
    url_changed(KEY)
    in_url = st.session_state.get(f"{KEY}-in-url") or ""
    # Set in each run: pages have different options, and Streamlit forgets the value of another page's control.
    st.session_state[KEY] = in_url if in_url in options else default

    def apply() -> None:
        chosen = st.session_state[KEY]
        store_in_url(KEY, "" if chosen == default else chosen)

    chosen = st.selectbox("Queue", options, key=KEY, label_visibility="collapsed", width=140, on_change=apply)
    return str(chosen)
