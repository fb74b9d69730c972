"""REST: export all matching files as CSV or JSON lines. They are read page by page and streamed."""

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from fastapi import FastAPI, Query, Request
from starlette.responses import StreamingResponse

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.file_actions import FileSelection
from filemill.domain.files import Status
from filemill.domain.spreadsheets import BYTE_ORDER_MARK, cell
from filemill.queries.files import LIMIT_MAX, list_files
from filemill_dashboard.rest.schema import responses
from filemill_dashboard.state.principals import request_owner
from filemill_dashboard.state.services import Services

COLUMNS = FileRow.__struct_fields__


def add_export(app: FastAPI, services: Services) -> None:
    """Add the endpoint."""

    @app.get(
        "/api/files/export",
        responses=responses(200, "text/csv application/x-ndjson", 422, 429, 503),
        response_class=StreamingResponse,
        summary="Export matching files, newest first, as CSV or JSON lines",
    )
    def export(
        *,
        request: Request,
        form: Annotated[Literal["csv", "ndjson"], Query(alias="format", description="Format of the export.")] = "csv",
        status: Annotated[Status | None, Query(description="Only files with this status.")] = None,
        search: Annotated[str, Query(description="Part of the title, or `#` and an id.")] = "",
        queue: Annotated[str, Query(description="Only files of this queue.")] = "",
        handler: Annotated[str, Query(description="Only files of this handler.")] = "",
    ) -> StreamingResponse:
        owner = request_owner(request, services.settings)
        pages = _pages(services, FileSelection(status, search, queue, handler, owner))
        first = next(pages)  # before the response starts, so that an unreachable database is a 503
        lines = _csv(first, pages) if form == "csv" else _ndjson(first, pages)
        return export_response("files", form, lines)


def export_response(name: str, form: Literal["csv", "ndjson"], lines: Iterator[bytes]) -> StreamingResponse:
    """The response with an export, as an attachment that is called `name`."""
    kind = "text/csv; charset=utf-8" if form == "csv" else "application/x-ndjson"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}.{form}"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return StreamingResponse(lines, headers=headers, media_type=kind)


def _pages(services: Services, wanted: FileSelection) -> Iterator[list[FileRow]]:
    cursor = None
    while True:
        with services.connect() as connection:
            page = list_files(connection, wanted, limit=LIMIT_MAX, cursor=cursor)
        yield page.items
        cursor = page.older
        if cursor is None:
            return


def _ndjson(first: list[FileRow], rest: Iterator[list[FileRow]]) -> Iterator[bytes]:
    for page in _all(first, rest):
        yield b"".join(msgspec.json.encode(row) + b"\n" for row in page)


def _csv(first: list[FileRow], rest: Iterator[list[FileRow]]) -> Iterator[bytes]:
    yield BYTE_ORDER_MARK
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for page in _all(first, rest):
        writer.writerows([cell(value) for value in msgspec.to_builtins(row).values()] for row in page)
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()


def _all(first: list[FileRow], rest: Iterator[list[FileRow]]) -> Iterator[list[FileRow]]:
    yield first
    yield from rest
