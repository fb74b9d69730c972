"""The dialog that creates a personal token, and shows it once."""

import streamlit as st

from filemill.domain.origins import split_list
from filemill.domain.permissions import Role
from filemill.domain.tokens import LABEL_MAX_CHARACTERS, parse_expiry
from filemill.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from filemill.services.tokens import NewToken
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.principals import page_principal

_REQUESTED = "token_requested"
_CREATED = "token_created"
# Labels of the choices, and the durations that they stand for.
_EXPIRY = {"7 days": "7d", "30 days": "30d", "90 days": "90d", "1 year": "365d", "Never": "never"}
_SHOWN_ONCE = "Copy it now. It is not stored, and cannot be shown again."


def request_token_dialog() -> None:
    """Open the dialog with the next run of the whole page."""
    st.session_state.pop(_CREATED, None)
    st.session_state.update({_REQUESTED: True, "open_dialog": True})


def token_dialog(data: PageData) -> None:
    """Open the dialog if it was requested."""
    if not st.session_state.get(_REQUESTED):
        return

    def close() -> None:
        st.session_state.pop(_REQUESTED, None)
        st.session_state.pop(_CREATED, None)

    def body() -> None:
        created: NewToken | None = st.session_state.get(_CREATED)
        if created is None:
            _form(data)
            return
        show_notices("token-created", [Notice("good", f"Token {created.id} was created", _SHOWN_ONCE)])
        st.code(created.secret, language=None, wrap_lines=True)
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Done", key="token-done", type="primary"):
                close()
                st.rerun()

    st.dialog("New token", on_dismiss=close)(body)()


def _form(data: PageData) -> None:
    viewer = page_principal()
    roles = [role.value for role in Role if viewer.role is not None and role.rank <= viewer.role.rank]
    label = st.text_input("What is it for?", key="token-label", max_chars=LABEL_MAX_CHARACTERS, autocomplete="off")
    left, right = st.columns(2)
    role = left.selectbox("Role", roles, key="token-role")
    expires = right.selectbox("Expires after", list(_EXPIRY), index=2, key="token-expires")
    addresses = st.text_input(
        "Addresses or networks, separated by commas (optional)",
        key="token-addresses",
        placeholder="10.0.0.0/8, 192.0.2.7",
        autocomplete="off",
    )
    problem_area = st.container()
    with st.container(horizontal=True, horizontal_alignment="right"):
        pressed = st.button("Create token", key="token-create", type="primary")
    if not pressed:
        return
    try:
        st.session_state[_CREATED] = data.services.tokens.create(
            str(label or ""),
            Role(str(role)),
            viewer,
            expiry=parse_expiry(_EXPIRY[str(expires)]),
            networks=split_list(str(addresses or "")),
        )
    except (InvalidRequest, Forbidden, Conflict, NotFound, Unavailable) as error:
        with problem_area:
            show_notices("token-problem", [Notice("bad", "Not created", str(error))])
        return
    st.rerun(scope="fragment")
