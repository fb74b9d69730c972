"""The dialog that confirms an action. An action that cannot be undone wants the name of its target typed."""

from collections.abc import Callable

import streamlit as st

from filemill_dashboard.components.notices import Notice, show_notices


def confirmation(
    key: str,
    title: str,
    about: Callable[[], str],
    act: Callable[[], str | None],
    close: Callable[[], None],
    *,
    failure: str,
    name: str = "",
    danger: bool = True,
) -> None:
    """Open the dialog.

    `about` draws what will happen, and returns the label of the button that does it; without a label the action is not
    possible. With `name`, the button is enabled once that text was typed. `act` does it, and returns why it failed: the
    dialog shows that under the title `failure` and stays open. `close` is called when the dialog closes.
    """

    def body() -> None:
        label = about()
        matches = True
        if name:
            # Topics and words of this program: no character of them is markup within backticks.
            label_text = f"To confirm, type `{name}`"
            typed = st.text_input(label_text, key=f"{key}-name", live="100ms", autocomplete="off")
            matches = str(typed or "").strip() == name
        notice_area = st.container()
        problem = None
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Cancel", key=f"{key}-cancel-dialog"):
                close()
                st.rerun()
            button = f"danger-{key}-go" if danger else f"{key}-go"
            pressed = st.button(label or "Not possible", key=button, type="primary", disabled=not (label and matches))
            if pressed and label and matches:
                problem = act()
                if problem is None:
                    close()
                    st.rerun()
        with notice_area:
            show_notices(f"{key}-problem", [Notice("bad", failure, problem)] if problem else [])

    st.dialog(title, on_dismiss=close)(body)()
