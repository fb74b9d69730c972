"""How statuses look, and the style of what is Streamlit's own."""

from pathlib import Path

import streamlit as st

from filemill.domain.files import Status

TONES: dict[Status, str] = {
    Status.PENDING: "wait",
    Status.PROCESSING: "busy",
    Status.COMPLETED: "good",
    Status.FAILED: "bad",
    Status.CANCELLED: "none",
}

_STYLE = Path(__file__).with_name("page.css")


def apply() -> None:
    """Bring in the style sheet of the page around the components."""
    st.html(_STYLE)
