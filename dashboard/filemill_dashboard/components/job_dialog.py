"""The dialog that requests a file of any handler, in any queue: one by a form, or many from a CSV file.

The form follows from the JSON Schema that the workers announced.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import streamlit as st

from filemill.domain.files import NewFile, new_file
from filemill.domain.handlers import TEXT_HANDLER
from filemill.domain.idempotency import KeyReused
from filemill.domain.limits import LimitExceeded
from filemill.domain.permissions import Permission
from filemill.errors import Forbidden, InvalidRequest, Unavailable
from filemill.queries.handlers import HandlerView
from filemill.services.job_requests import encode_parameters
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.schema_form import schema_form
from filemill_dashboard.state.csv_jobs import create_rows
from filemill_dashboard.state.jobs import JobRunning
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.principals import page_principal, why_not
from filemill_dashboard.views.csv_requests import CsvRow, csv_requests
from filemill_dashboard.views.plain_markdown import as_plain_markdown
from filemill_dashboard.views.plurals import counted
from filemill_dashboard.views.schema_form import FormField, form_fields, parameters_of, parse_json

_REQUESTED = "job_requested"
_PREVIEW_ROWS = 8
_OF_HANDLER = "Queue of the handler"
_PREVIEW = [
    Column("line", "Line", "number", 64),
    Column("title", "Title", "text", 200),
    Column("problem", "Result of the check"),
]


def job_button() -> None:
    """Draw the button that requests the dialog."""
    st.button(
        "New job …",
        key="job-open",
        on_click=_open,
        disabled=bool(reason := why_not(Permission.CREATE_FILES)),
        help=reason or "Choose a handler, its parameters and a queue; or create many from a CSV file",
    )


def _open() -> None:
    st.session_state.update({_REQUESTED: {"key": secrets.token_hex(16)}, "open_dialog": True})


def job_dialog(data: PageData, show_created: Callable[[int | None], None]) -> bool:
    """Open the dialog if it was requested; returns whether it was. `show_created` gets the id of a new file."""
    state: dict[str, Any] | None = st.session_state.get(_REQUESTED)
    if state is None:
        return False

    def close() -> None:
        st.session_state.pop(_REQUESTED, None)

    def body() -> None:
        handlers, problem = _handlers(data)
        if not handlers:
            show_notices("job-problem", [Notice("bad", "The handlers are not known", problem or "")])
            return
        handler, queue = _choices(data, handlers)
        fields = form_fields(handler.schema)
        one, many = st.tabs(["One file", "Many from a CSV file"])
        with one:
            created = _one(data, handler, queue, fields, state)
        with many:
            started = _many(data, handler, queue, fields, state)
        if created is not None or started:
            close()
            show_created(created)
            st.rerun()

    st.dialog("New job", on_dismiss=close, width="large")(body)()
    return True


def _handlers(data: PageData) -> tuple[list[HandlerView], str | None]:
    reading = data.handlers()
    return reading.value or [], reading.error


def _choices(data: PageData, handlers: Sequence[HandlerView]) -> tuple[HandlerView, str | None]:
    by_name = {handler.name: handler for handler in handlers}
    left, right = st.columns(2)
    names = sorted(by_name, key=lambda name: (name == TEXT_HANDLER, name))
    name = left.selectbox("Handler", names, key="job-handler")
    queue = right.selectbox("Queue", [_OF_HANDLER, *data.services.settings.all_queues], key="job-queue")
    handler = by_name[name]
    facts = [f"version {handler.version}", f".{handler.extension}"]
    facts += [f"deadline {handler.timeout:g} s"] if handler.timeout is not None else []
    facts += [f"at most {counted(handler.attempts, 'attempt')}"] if handler.attempts is not None else []
    st.caption(as_plain_markdown(" · ".join([*facts, counted(handler.workers, "worker")])))
    return handler, None if queue == _OF_HANDLER else queue


def _one(
    data: PageData, handler: HandlerView, queue: str | None, fields: list[FormField] | None, state: dict[str, Any]
) -> int | None:
    """Draw the form; returns the id of the file that it created."""
    title = st.text_input("Title", key="job-title", autocomplete="off")
    description = st.text_area("Description (optional)", key="job-description", height="content")
    key = f"job-{handler.name}"
    text = st.text_area("Parameters, as JSON", "{}", key=f"{key}-json", height=160) if fields is None else ""
    values = schema_form(key, fields) if fields is not None else {}
    notice_area = st.container()
    with st.container(horizontal=True, horizontal_alignment="right"):
        pressed = st.button("Create job", key="job-create", type="primary")
    if not pressed:
        return None
    try:
        parameters = parameters_of(fields, values) if fields is not None else parse_json("parameters", text)
        request = msgspec.structs.replace(
            new_file(title, description),
            handler=handler.name,
            parameters=encode_parameters(parameters) if parameters != {} else None,
            queue=queue,
        )
        return _submit(data, request, state)
    except (InvalidRequest, Forbidden, LimitExceeded, Unavailable) as error:
        with notice_area:
            show_notices("job-problem", [Notice("bad", "Not created", str(error))])
    return None


def _submit(data: PageData, request: NewFile, state: dict[str, Any]) -> int:
    submissions, principal = data.services.submissions, page_principal()
    try:
        row, _ = submissions.submit_once(request, state["key"], principal=principal)
    except KeyReused:  # the input was edited after an attempt whose response was lost
        state["key"] = secrets.token_hex(16)
        row, _ = submissions.submit_once(request, state["key"], principal=principal)
    data.invalidate()
    return row.id


def _many(
    data: PageData, handler: HandlerView, queue: str | None, fields: list[FormField] | None, state: dict[str, Any]
) -> bool:
    """Draw the upload with its preview; returns whether a job was started."""
    columns = ", ".join(["title", "description", "queue", *(one.name for one in fields or ())])
    file = st.file_uploader(f"CSV file with a header line. Columns: {columns}", type="csv", key="job-csv")
    if file is None:
        return False
    try:
        rows = _checked(data, csv_requests(file.getvalue(), handler.name, fields, queue))
    except (InvalidRequest, Unavailable) as error:
        show_notices("job-csv-problem", [Notice("bad", "The file cannot be used", str(error))])
        return False
    wrong = [row for row in rows if row.error is not None]
    good = [row.request for row in rows if row.request is not None and row.error is None]
    _preview(rows, wrong)
    with st.container(horizontal=True, horizontal_alignment="right"):
        label = f"Create {counted(len(good), 'file')}"
        pressed = st.button(label, key="job-create-many", type="primary", disabled=bool(wrong) or not good)
    if not pressed:
        return False
    try:
        data.jobs.start(label, len(good), create_rows(data.services, good, state["key"], page_principal()))
    except JobRunning as busy:
        show_notices("job-csv-problem", [Notice("warn", "Another job is running", str(busy))])
        return False
    return True


def _checked(data: PageData, rows: list[CsvRow]) -> list[CsvRow]:
    """The rows, with the errors that the handler's schema and the queues give."""
    requests = [row.request for row in rows if row.request is not None]
    errors = iter(data.services.submissions.errors(requests))
    return [
        msgspec.structs.replace(row, error=None if (error := next(errors)) is None else str(error))
        if row.request is not None
        else row
        for row in rows
    ]


def _preview(rows: Sequence[CsvRow], wrong: Sequence[CsvRow]) -> None:
    """Draw the first rows; those with errors come first."""
    if wrong:
        text = "Correct the file and upload it again. Nothing has been created."
        show_notices("job-csv-errors", [Notice("bad", f"{counted(len(wrong), 'row')} cannot be accepted", text)])
    shown = [*wrong, *(row for row in rows if row.error is None)][:_PREVIEW_ROWS]
    data_grid(
        "job-preview",
        _PREVIEW,
        [
            TableRow(
                str(row.line),
                {"line": row.line, "title": row.title, "problem": row.error or "can be accepted"},
                tone="bad" if row.error else None,
            )
            for row in shown
        ],
        label="Preview of the rows",
        empty=("The file has no rows", "Add a line for each request below the header line."),
    )
    if len(rows) > len(shown):
        st.caption(f"{len(shown)} of {counted(len(rows), 'row')}")
