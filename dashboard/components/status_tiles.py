"""Files per status, as tiles to filter by."""

from collections.abc import Callable

import streamlit as st

from dashboard.components.assets import component
from dashboard.components.look import TONES
from filemill.adapters.postgres_reads import Counts
from filemill.files import Status


def status_tiles(
    counts: Counts | None, selected: Status | None, *, old: bool, on_choice: Callable[[str], None]
) -> None:
    """Draw them; `on_choice` gets a status, or "" for all."""
    tiles = [{"status": "", "label": "All files", "count": counts.total if counts else None, "tone": "none"}]
    for status in Status:
        count = counts.by_status[status] if counts else None
        tiles.append(
            {"status": status.value, "label": status.value.capitalize(), "count": count, "tone": TONES[status]}
        )

    def choose() -> None:
        choice = st.session_state["tiles"].status
        if choice is not None:
            on_choice(str(choice))

    component("tiles")(
        key="tiles",
        data={"tiles": tiles, "selected": selected.value if selected else "", "old": old},
        on_status_change=choose,
    )
