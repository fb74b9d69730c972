"""Requests from a CSV file: one a row. Pure.

The columns `title`, `description` and `queue` are those of a request; any other column is a parameter of the handler.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from filemill.domain.files import NewFile, new_file
from filemill.errors import InvalidRequest
from filemill.services.job_requests import encode_parameters
from filemill_dashboard.views.schema_form import FormField, parse_json

ROWS_MAX = 10_000
_OWN = ("title", "description", "queue")
_TRUE, _FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})


class CsvRow(msgspec.Struct, frozen=True):
    """A row of the file: its line, the request that it describes, or what is wrong with it."""

    line: int
    title: str
    request: NewFile | None
    error: str | None = None


def csv_requests(content: bytes, handler: str, fields: Sequence[FormField] | None, queue: str | None) -> list[CsvRow]:
    """The rows of a file with a header line. `queue` is that of rows without one. Raises InvalidRequest."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest("file", f"must be UTF-8: byte {error.start} is not") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[CsvRow] = []
    try:
        names = reader.fieldnames or ()
        if "title" not in names:
            raise InvalidRequest("file", "must have a header line with a column named title")
        for row in reader:
            if len(rows) == ROWS_MAX:
                raise InvalidRequest("file", f"must have at most {ROWS_MAX:,} rows")
            rows.append(_row(reader.line_num, row, handler, {one.name: one for one in fields or ()}, queue))
    except csv.Error as error:
        raise InvalidRequest("file", f"is not CSV: {error}") from None
    return rows


def _row(
    line: int, row: Mapping[str | None, Any], handler: str, fields: Mapping[str, FormField], queue: str | None
) -> CsvRow:
    title = row.get("title") or ""
    if None in row or None in row.values():
        return CsvRow(line, title, None, "the row must have as many cells as the header line")
    try:
        parameters = {
            name: _typed(name, text, fields.get(name))
            for name, text in row.items()
            if name and name not in _OWN and text
        }
        request = msgspec.structs.replace(
            new_file(title, row.get("description") or ""),
            handler=handler,
            parameters=encode_parameters(parameters) if parameters else None,
            queue=row.get("queue") or queue,
        )
    except InvalidRequest as error:
        return CsvRow(line, title, None, str(error))
    return CsvRow(line, title, request)


def _typed(name: str, text: str, field: FormField | None) -> Any:  # noqa: ANN401 - one case for each kind
    """A cell as the value that its field takes. A text that does not fit is left to the schema, which names it."""
    kind = field.kind if field is not None else "text"
    if kind in ("integer", "number"):
        try:
            return int(text) if kind == "integer" else float(text)
        except ValueError:
            return text
    if kind == "boolean":
        known = text.strip().lower()
        return True if known in _TRUE else False if known in _FALSE else text
    if kind == "choice" and field is not None:
        return next((one for one in field.options if str(one) == text), text)
    return parse_json(name, text) if kind in ("records", "json") else text
