"""Counts to filter by: one tile a value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from filemill_dashboard.components.assets import component, only_drawn


@dataclass(frozen=True)
class Tile:
    """A value ("" for all), what it is called, how often it comes (None: unknown), and its tone."""

    value: str
    label: str
    count: int | None
    tone: str


def filter_tiles(
    key: str, tiles: Sequence[Tile], selected: str, *, label: str, stale: bool, on_choice: Callable[[str], None]
) -> None:
    """Draw them; `on_choice` gets a value, or "" for all."""

    def choose() -> None:
        sent = st.session_state[key].status
        if sent is None:
            return
        choice = only_drawn(key, sent, {"", *(tile.value for tile in tiles)})
        if choice is not None:
            on_choice(choice)

    component("tiles")(
        key=key,
        data={
            "tiles": [
                {"status": tile.value, "label": tile.label, "count": tile.count, "tone": tile.tone} for tile in tiles
            ],
            "selected": selected,
            "label": label,
            "old": stale,
        },
        on_status_change=choose,
    )
