"""The form that asks for a file, or for many: they are numbered then."""

import secrets
from collections.abc import Callable

import streamlit as st

from filemill.domain.files import InvalidRequest, new_file
from filemill.domain.idempotency import KeyReused
from filemill.errors import Unavailable
from filemill_dashboard.components.notices import Notice, show_inline_notice
from filemill_dashboard.state import data as data_module
from filemill_dashboard.state.bulk import create_many
from filemill_dashboard.state.jobs import JobRunning

TITLE = "new_title"
DESCRIPTION = "new_description"
COUNT = "new_count"
COUNT_MAX = 100_000
_OUTCOME = "new_outcome"
_OWN = "new_id"
_KEY = "new_key"


def file_form(show_newest: Callable[[], None]) -> None:
    """Draw it; `show_newest` turns the list to where the new file is."""
    with st.form("new_file", border=False), st.container(key="form", horizontal=True, vertical_alignment="top"):
        st.text_input(
            "Title", key=TITLE, placeholder="Title of a new file", label_visibility="collapsed", autocomplete="off"
        )
        st.text_area(
            "Description",
            key=DESCRIPTION,
            placeholder="Description (optional)",
            label_visibility="collapsed",
            height="content",
        )
        st.number_input(
            "How many",
            1,
            COUNT_MAX,
            key=COUNT,
            label_visibility="collapsed",
            help=None,
            format="%d",
            icon=":material/close:",
        )
        key = _key()
        st.form_submit_button(
            "Create file",
            type="primary",
            on_click=_submit,
            args=(show_newest, key),
            key=f"create-{key[:8]}",  # a second click on a button that is gone does nothing
            width="content",
        )
    show_inline_notice("outcome", st.session_state.get(_OUTCOME))


def created_file() -> int | None:
    """The id of the file that this viewer asked for last."""
    own: int | None = st.session_state.get(_OWN)
    return own


def _key() -> str:
    """What makes this filling of the form one request: it is kept until it was accepted, or is another request."""
    key: str = st.session_state.setdefault(_KEY, secrets.token_hex(16))
    return key


def _submit(show_newest: Callable[[], None], key: str) -> None:
    """Accept the request. Runs before the page is drawn, so that the list has the new row at once."""
    title, description = st.session_state.get(TITLE) or "", st.session_state.get(DESCRIPTION) or ""
    data = data_module.current()
    count = int(st.session_state.get(COUNT) or 1)
    try:
        if count > 1:
            data.jobs.start(f"Create {count:,} files", count, create_many(data.services, title, description, count))
            st.session_state.update({TITLE: "", DESCRIPTION: "", COUNT: 1, "q": "", _OUTCOME: None})
            show_newest()
            return
        row, _ = data.services.submissions.submit_once(new_file(title, description), key)
    except KeyReused:  # it was edited after an attempt whose answer got lost
        st.session_state[_KEY] = secrets.token_hex(16)
        _submit(show_newest, st.session_state[_KEY])
        return
    except InvalidRequest as error:
        st.session_state[_OUTCOME] = Notice("bad", f"{error.field.capitalize()} {error.reason}")
        return
    except JobRunning as error:
        st.session_state[_OUTCOME] = Notice("warn", "Not now", str(error))
        return
    except Unavailable as error:
        st.session_state[_OUTCOME] = Notice(
            "bad",
            "No answer from the database",
            # What to do comes first: the line is cut where it does not fit.
            f"The file may have been accepted. Press Create file again: it is not accepted twice. {error}.",
        )
        return
    data.forget()
    st.session_state[_OWN] = row.id
    st.session_state[_KEY] = secrets.token_hex(16)
    st.session_state.update({TITLE: "", DESCRIPTION: "", "q": ""})
    show_newest()
    st.session_state[_OUTCOME] = Notice("good", f"File #{row.id} accepted", row.title)
