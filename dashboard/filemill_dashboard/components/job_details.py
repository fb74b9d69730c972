"""The part of a file's page about its job: progress, checkpoint, parameters, limits and what was used, attempts."""

import json

import streamlit as st

from filemill.domain.files import Status, iso_milliseconds
from filemill.domain.handlers import TEXT_HANDLER
from filemill.queries.files import FileDetails
from filemill.queries.handlers import HandlerView
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.job_attempts import job_attempts
from filemill_dashboard.components.preview import preview
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.downloads import CheckpointState
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.views.plurals import counted
from filemill_dashboard.views.printable import printable


def job_details(data: PageData, file_id: int) -> None:
    """Draw progress, checkpoint, limits, parameters and attempts.

    Nothing is drawn for a plain text file of the queue `default`.
    """
    reading = data.job(file_id)
    file, stale = reading.value, reading.error is not None
    if file is None or (file.handler == TEXT_HANDLER and file.queue == "default" and not file.parameters):
        return
    handlers = data.handlers().value or []
    handler = next((one for one in handlers if one.name == file.handler), None)
    if file.status is Status.PROCESSING and file.fraction is not None:
        # Streamlit reads the text as Markdown; a handler chose it.
        st.progress(min(1.0, max(0.0, file.fraction)), text=f"{100 * file.fraction:.0f} %")
    facts("job-facts", _facts(file, handler, _checkpoint(data, file)), title="Job", stale=stale)
    if file.parameters is not None:
        text = json.dumps(file.parameters, indent=2, ensure_ascii=False)
        preview("parameters", text, title="Parameters", note=counted(len(text.encode()), "byte"))
    if file.handler != TEXT_HANDLER:
        job_attempts(data, file_id)


def _checkpoint(data: PageData, file: FileDetails) -> Fact | None:
    """The checkpoint that the next attempt would resume from. It is deleted at the end of the run."""
    if file.handler == TEXT_HANDLER:
        return None
    reading: CachedValue[CheckpointState | None] = data.checkpoint(file.id)
    if reading.error is not None:
        return Fact("Checkpoint", None)
    if reading.value is None:
        return None if file.status.terminal else Fact("Checkpoint", "none yet")
    size = counted(reading.value.size, "byte")
    return Fact("Checkpoint", f"{size}, stored {iso_milliseconds(reading.value.stored_at)}")


def _facts(file: FileDetails, handler: HandlerView | None, checkpoint: Fact | None) -> list[Fact]:
    lines = [Fact("Handler", file.handler, mono=True), Fact("Queue", file.queue, mono=True)]
    if file.status is Status.PROCESSING and file.message:
        lines.append(Fact("Progress", printable(file.message)))
    if checkpoint is not None:
        lines.append(checkpoint)
    if file.inputs:
        lines += [Fact(f"Input {name}", key, mono=True) for name, key in file.inputs.items()]
    if file.content_type:
        lines.append(Fact("Content type", file.content_type, mono=True))
    if handler is None:
        lines.append(Fact("Limits", "no running worker has this handler", tone="warn"))
        return lines
    limits = [
        ("deadline", None if handler.timeout is None else f"{handler.timeout:g} s"),
        ("memory", None if handler.memory is None else f"{handler.memory / 2**20:,.0f} MiB"),
        ("attempts", None if handler.attempts is None else str(handler.attempts)),
        ("at once in a processor", None if handler.max_concurrency is None else str(handler.max_concurrency)),
    ]
    lines += [Fact(f"Limit: {name}", value) for name, value in limits if value is not None]
    return lines
