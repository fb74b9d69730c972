"""The details of one row of the audit log, in a drawer beside the list."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import streamlit as st

from filemill.queries.audit import AuditEntryRow
from filemill.services.audit import REFUSED
from filemill_dashboard.components.chart_annotations import summary
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.preview import preview
from filemill_dashboard.state.page_data import PageData

WIDTH_PIXELS = 640
# Of a list of values, a line shows at most this.
LINE_CHARACTERS = 200
# The whole details of a bulk action can have thousands of files.
DETAIL_CHARACTERS = 20_000


def details_of(action: str, detail: Mapping[str, Any]) -> str:
    """Return one line about an operation."""
    if action == REFUSED:
        return str(detail.get("refused", ""))[:LINE_CHARACTERS]
    line = summary(action, dict(detail))
    if line == action:  # no sentence for this action: its values
        shown = [(name, value) for name, value in sorted(detail.items()) if isinstance(value, str | int | float)]
        line = ", ".join(f"{name} {value}" for name, value in shown)
    return line[:LINE_CHARACTERS]


def audit_details(data: PageData, sequence: int, on_close: Callable[[], None]) -> None:
    """Open the drawer for a row of the log."""

    def body() -> None:
        reading = data.audit_entry(sequence)
        if reading.error is not None:
            show_notices("entry-error", [Notice("bad", "The row cannot be read", reading.error)])
        elif reading.value is None:
            show_notices("entry-none", [Notice("warn", "There is no such row", "The log has no row of this number.")])
        else:
            _show(reading.value)

    st.dialog(f"Audit log, row {sequence}", width=WIDTH_PIXELS, position="right", on_dismiss=on_close)(body)()


def _show(entry: AuditEntryRow) -> None:
    lines = [
        Fact("Time", f"{entry.at:%Y-%m-%d %H:%M:%S.%f} UTC"),
        Fact("Person or program", entry.actor),
        Fact("Action", entry.action, mono=True),
        Fact("Signed in by", entry.authentication),
        Fact("Address", entry.address),
        Fact("Request id", entry.request_id, mono=True),
        Fact("Hash", entry.hash, mono=True),
    ]
    facts("entry", lines)
    text = msgspec.json.format(msgspec.json.encode(entry.detail), indent=2).decode()
    cut = len(text) > DETAIL_CHARACTERS
    note = f"The first {DETAIL_CHARACTERS:,} characters; the export has all" if cut else ""
    preview("entry-detail", text[:DETAIL_CHARACTERS], title="Details", note=note)
