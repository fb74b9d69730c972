"""A menu, which closes after one of its actions: a second click then meets the page, and no other action."""

from typing import Any

import streamlit as st


def menu(label: str, key: str, **options: Any) -> Any:  # noqa: ANN401 - a container of Streamlit
    """Draw a menu; its contents are drawn in the container that is returned. `options` are those of `st.popover`."""
    return st.popover(label, key=key, on_change="rerun", **options)


def close_menu(key: str) -> None:
    """Close a menu. For use in callbacks."""
    st.session_state[key] = False
