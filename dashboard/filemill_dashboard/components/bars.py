"""A bar per name with its count. Clicking a bar filters by its name."""

from collections.abc import Callable, Mapping

import streamlit as st

from filemill_dashboard.components.assets import component, only_drawn


def bars(
    key: str,
    counts: Mapping[str, int],
    selected: str,
    *,
    label: str,
    empty: str,
    tone: str = "bad",
    on_choice: Callable[[str], None],
) -> None:
    """Draw the bars in the order given. `on_choice` gets a name, or "" to remove the filter."""

    def choose() -> None:
        sent = st.session_state[key].choice
        if sent is None:
            return
        choice = only_drawn(key, sent, {"", *counts})
        if choice is not None:
            on_choice(choice)

    items = [{"name": name, "count": count} for name, count in counts.items()]
    data = {"items": items, "selected": selected, "label": label, "empty": empty, "tone": tone}
    component("bars")(key=key, data=data, on_choice_change=choose)
