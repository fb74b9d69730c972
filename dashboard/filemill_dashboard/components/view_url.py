"""Controls whose values are stored in the URL, so that a view can be shared and survives a reload.

Streamlit's own `bind` is not used: a change of `st.query_params` in the same run removes a bound parameter.
"""

from collections.abc import Sequence

import streamlit as st


def update_view(**changes: str) -> None:
    """Set parameters of the URL; "" removes one. The others stay, except for the cursor of the list."""
    for name, value in {"cursor": "", **changes}.items():
        _set_parameter(name, value)


def _set_parameter(name: str, value: str) -> None:
    if value:
        st.query_params[name] = value
    else:
        st.query_params.pop(name, None)


def select_option(label: str, options: Sequence[str], default: str, key: str) -> str:
    """Draw a segmented control. Its value is stored in the URL unless it is the default, and kept on the next page."""
    if key not in st.session_state:
        initial = st.query_params.get(key, default)
        st.session_state[key] = initial if initial in options else default

    selected: str = (
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
    in_url = "" if selected == default else selected
    if st.query_params.get(key, "") != in_url:  # also after a change of page, which starts with an empty URL
        _set_parameter(key, in_url)
    return selected


def search_box(label: str, placeholder: str, key: str, *, live: str, width: int) -> str:
    """Draw a search box whose text is stored in the URL. It is applied while typing, after a pause of `live`."""
    # The URL also changes without the box: by Back and Forward of the browser, and by a link.
    in_url, known = st.query_params.get(key, ""), f"{key}-in-url"
    if key not in st.session_state or in_url != st.session_state.get(known):
        st.session_state[key] = in_url
    st.session_state[known] = in_url

    def apply() -> None:
        text = st.session_state[key].strip()
        st.session_state[known] = text
        update_view(**{key: text})

    st.text_input(
        label,
        key=key,
        type="search",
        placeholder=placeholder,
        label_visibility="collapsed",
        live=live,
        on_change=apply,
        width=width,
    )
    return str(st.session_state[key] or "").strip()
