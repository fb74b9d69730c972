"""The link that opens what a page shows in a notebook."""

from urllib.parse import urlencode

import streamlit as st


def notebook_link(**what: str | int) -> None:
    """Draw it: for a `period` in seconds up to now, or for a `run` of the lab."""
    st.link_button(
        "Open in a notebook",
        f"/api/notebook?{urlencode(what)}",
        icon=":material/download:",
        help="A notebook that loads the same window's records and rows, and draws them: `make lab` opens it",
        width="content",
    )
