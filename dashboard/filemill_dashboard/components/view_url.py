"""A view is its URL: filters, periods and the like are there, so that it can be shared and survives a reload.

By hand and not with Streamlit's own `bind`: a change of `st.query_params` in the same run takes a bound parameter out
of the URL again.
"""

from collections.abc import Sequence

import streamlit as st


def update_view(**changes: str) -> None:
    """Change the view; "" takes a part away. What is not said stays, but for the place in the list."""
    for name, value in {"cursor": "", **changes}.items():
        _set_parameter(name, value)


def _set_parameter(name: str, value: str) -> None:
    if value:
        st.query_params[name] = value
    else:
        st.query_params.pop(name, None)


def select_option(label: str, options: Sequence[str], default: str, key: str) -> str:
    """One of a few, side by side; the URL has it unless it is the default, and the viewer's next page too."""
    if key not in st.session_state:
        wanted = st.query_params.get(key, default)
        st.session_state[key] = wanted if wanted in options else default

    chosen: str = (
        st.segmented_control(
            label,
            options,
            required=True,
            key=key,
            persist_state="session",
            label_visibility="collapsed",
            width="content",
        )
        or default
    )
    said = "" if chosen == default else chosen
    if st.query_params.get(key, "") != said:  # also after a change of page, which begins with an empty URL
        _set_parameter(key, said)
    return chosen


def search_box(label: str, placeholder: str, key: str, *, live: str, width: int) -> str:
    """A search box, what it says in the URL. It is sent while one types, after a pause of `live`."""
    if key not in st.session_state:
        st.session_state[key] = st.query_params.get(key, "")
    st.text_input(
        label,
        key=key,
        type="search",
        placeholder=placeholder,
        label_visibility="collapsed",
        live=live,
        on_change=lambda: update_view(**{key: st.session_state[key].strip()}),
        width=width,
    )
    return str(st.session_state[key] or "").strip()
