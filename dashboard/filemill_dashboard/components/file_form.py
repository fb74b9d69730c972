"""The form that creates one file or many numbered files."""

import secrets
from collections.abc import Callable

import streamlit as st

from filemill.domain.files import new_file
from filemill.domain.idempotency import KeyReused
from filemill.domain.limits import LimitExceeded
from filemill.domain.permissions import Permission
from filemill.errors import Forbidden, InvalidRequest, Unavailable
from filemill_dashboard.components.notices import Notice, show_inline_notice
from filemill_dashboard.state import page_data
from filemill_dashboard.state.bulk import create_many
from filemill_dashboard.state.jobs import JobRunning
from filemill_dashboard.state.principals import page_principal, why_not
from filemill_dashboard.views.plurals import counted

TITLE = "new_title"
DESCRIPTION = "new_description"
COUNT = "new_count"
COUNT_MAX = 100_000
_OUTCOME = "new_outcome"
_FILE_ID = "new_id"
_KEY = "new_key"


def file_form(show_newest: Callable[[], None]) -> None:
    """Draw the form. `show_newest` changes the list to show the new file."""
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
            "Number of files",
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
            key=f"create-{key[:8]}",  # a new key per request, so a second click on the old button does nothing
            width="content",
            disabled=bool(reason := why_not(Permission.CREATE_FILES)),
            help=reason or None,
        )
    show_inline_notice("outcome", st.session_state.get(_OUTCOME))


def created_file() -> int | None:
    """Return the id of the file that this viewer created last."""
    file_id: int | None = st.session_state.get(_FILE_ID)
    return file_id


def note_created(file_id: int) -> None:
    """Note the file that this viewer created last, so that the list marks it."""
    st.session_state[_FILE_ID] = file_id
    st.session_state[_OUTCOME] = Notice("good", f"File #{file_id} created")


def _key() -> str:
    """Return the idempotency key of the current input. It is kept until the request is accepted or edited."""
    key: str = st.session_state.setdefault(_KEY, secrets.token_hex(16))
    return key


def _submit(show_newest: Callable[[], None], key: str) -> None:
    """Submit the request. This runs before the page is drawn, so the list contains the new row at once."""
    title, description = st.session_state.get(TITLE) or "", st.session_state.get(DESCRIPTION) or ""
    data = page_data.current()
    count = int(st.session_state.get(COUNT) or 1)
    try:
        if count > 1:
            work = create_many(data.services, title, description, count, key, page_principal())
            data.jobs.start(f"Create {counted(count, 'file')}", count, work)
            st.session_state[_KEY] = secrets.token_hex(16)
            st.session_state.update({TITLE: "", DESCRIPTION: "", COUNT: 1, _OUTCOME: None})
            show_newest()
            return
        row, _ = data.services.submissions.submit_once(new_file(title, description), key, principal=page_principal())
    except KeyReused:  # the input was edited after an attempt whose response was lost
        st.session_state[_KEY] = secrets.token_hex(16)
        _submit(show_newest, st.session_state[_KEY])
        return
    except InvalidRequest as error:
        st.session_state[_OUTCOME] = Notice("bad", f"{error.field.capitalize()} {error.reason}")
        return
    except (Forbidden, LimitExceeded) as error:
        st.session_state[_OUTCOME] = Notice("bad", "Not created", str(error))
        return
    except JobRunning as error:
        st.session_state[_OUTCOME] = Notice("warn", "Another job is running", str(error))
        return
    except Unavailable as error:
        st.session_state[_OUTCOME] = Notice(
            "bad",
            "The database did not respond",
            # The instruction comes first, because a long line is cut off.
            f"The file may have been created. Click Create file again; it will not be created twice. {error}.",
        )
        return
    data.invalidate()
    st.session_state[_FILE_ID] = row.id
    st.session_state[_KEY] = secrets.token_hex(16)
    st.session_state.update({TITLE: "", DESCRIPTION: ""})
    show_newest()
    st.session_state[_OUTCOME] = Notice("good", f"File #{row.id} created", row.title)
