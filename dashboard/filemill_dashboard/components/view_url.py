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
    # During an outage, runs follow each other without a pause, and the browser once sent no selection at all.
    if st.session_state.get(key) not in options:
        initial = st.query_params.get(key) or st.session_state.get(f"{key}-selected", default)
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
    st.session_state[f"{key}-selected"] = selected
    in_url = "" if selected == default else selected
    if st.query_params.get(key, "") != in_url:  # also after a change of page, which starts with an empty URL
        _set_parameter(key, in_url)
    return selected


def url_changed(key: str) -> bool:
    """Whether the browser changed the parameter of this key, not its control: Back, Forward or a link.

    Each run begins with the URL that the browser had when it asked for the run. Until it has received a change of ours,
    it sends the former values, which are no changes.
    """
    in_url, known = st.query_params.get(key, ""), st.session_state.get(f"{key}-in-url")
    if st.session_state.pop(f"{key}-just-stored", False):  # this run's URL is ours, the browser has not confirmed it
        return False
    if in_url == known:
        st.session_state[f"{key}-former"] = []
        return False
    if known is not None and in_url in st.session_state.get(f"{key}-former", []):
        _set_parameter(key, known)
        return False
    st.session_state[f"{key}-in-url"] = in_url
    return True


def store_in_url(key: str, value: str) -> None:
    """Store the value of a control in its parameter, in a callback of the control."""
    former: list[str] = st.session_state.setdefault(f"{key}-former", [])
    former.append(st.session_state.get(f"{key}-in-url") or "")
    st.session_state.update({f"{key}-in-url": value, f"{key}-just-stored": True})
    update_view(**{key: value})


def clear_in_url(*keys: str) -> None:
    """Remove parameters in a callback, and what their controls show."""
    for key in keys:
        st.session_state.pop(key, None)
        store_in_url(key, "")


def search_box(label: str, placeholder: str, key: str, *, live: str, width: int) -> str:
    """Draw a search box whose text is stored in the URL. It is applied while typing, after a pause of `live`."""
    if url_changed(key) or key not in st.session_state:
        st.session_state[key] = st.query_params.get(key, "")

    st.text_input(
        label,
        key=key,
        type="search",
        placeholder=placeholder,
        label_visibility="collapsed",
        live=live,
        on_change=lambda: store_in_url(key, st.session_state[key].strip()),
        width=width,
    )
    return str(st.session_state[key] or "").strip()


def select_box(label: str, options: Sequence[str], key: str, width: int, *, clears: Sequence[str] = ()) -> str:
    """Draw a select box whose value is stored in the URL. A link within the page changes the URL first.

    The first option is the default. A selection removes the parameters of `clears` from the URL.
    """
    current, widget, seen = st.query_params.get(key, ""), f"select-{key}", f"seen-{key}"
    if current != st.session_state.get(seen) or st.session_state.get(widget) not in options:
        st.session_state[widget] = current if current in options else options[0]
    selected: str = st.selectbox(label, options, key=widget, label_visibility="collapsed", width=width)
    if selected != (current if current in options else options[0]):
        update_view(**{key: "" if selected == options[0] else selected, **dict.fromkeys(clears, "")})
    st.session_state[seen] = st.query_params.get(key, "")
    return selected
