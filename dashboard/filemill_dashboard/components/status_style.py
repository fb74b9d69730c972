"""The tones of statuses, and the style sheet for Streamlit's own widgets."""

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
    """Apply the style sheet of the page around the components."""
    st.html(_STYLE)
