"""Tiles with counts. Clicking a tile filters by its value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from filemill_dashboard.components.assets import component, only_drawn


@dataclass(frozen=True)
class Tile:
    """A value ("" for all), its label, its count (None if unknown) and its tone."""

    value: str
    label: str
    count: int | None
    tone: str


def filter_tiles(
    key: str, tiles: Sequence[Tile], selected: str, *, label: str, stale: bool, on_choice: Callable[[str], None]
) -> None:
    """Draw the tiles. `on_choice` gets a value, or "" for all."""

    def choose() -> None:
        sent = st.session_state[key].choice
        if sent is None:
            return
        choice = only_drawn(key, sent, {"", *(tile.value for tile in tiles)})
        if choice is not None:
            on_choice(choice)

    component("filter_tiles")(
        key=key,
        data={
            "tiles": [
                {"value": tile.value, "label": tile.label, "count": tile.count, "tone": tile.tone} for tile in tiles
            ],
            "selected": selected,
            "label": label,
            "stale": stale,
        },
        on_choice_change=choose,
    )
