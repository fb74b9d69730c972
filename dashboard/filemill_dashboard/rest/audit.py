"""REST: the audit log, page by page, and as an export."""

import re
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from pydantic import BeforeValidator
from starlette.responses import Response, StreamingResponse

from filemill.domain.cursors import AUDIT
from filemill.queries.audit import AuditFilter
from filemill.services.audit_log import ExportFormat
from filemill_dashboard.rest.errors import json_response
from filemill_dashboard.rest.export import export_response
from filemill_dashboard.rest.records import AuditList
from filemill_dashboard.rest.schema import optional, responses
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state.principals import request_principal
from filemill_dashboard.state.services import Services

LIMIT_DEFAULT, LIMIT_MAX = 50, 100
TEXT_MAX_CHARACTERS = 200
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]", re.ASCII)


def _written_time(text: str | None) -> str | None:
    """The text of a time. Raises ValueError for a number, which pydantic would take for seconds since 1970."""
    if text is not None and not _TIME.match(text):
        raise ValueError("a time is written like 2026-11-30T10:00:00Z")
    return text


def _text(description: str) -> Any:  # noqa: ANN401 - FastAPI's marker
    return Query(max_length=TEXT_MAX_CHARACTERS, description=description)


def _wanted(
    *,
    actor: Annotated[str, _text("Only operations of this person or program.")] = "",
    action: Annotated[str, _text("Only this action.")] = "",
    about: Annotated[
        str,
        Query(
            alias="object",
            max_length=TEXT_MAX_CHARACTERS,
            description="Only about this file (its id), worker, account or topic.",
        ),
    ] = "",
    refused: Annotated[bool | None, Query(description="Only what was refused, or only what was not.")] = None,
    since: Annotated[
        datetime | None,
        BeforeValidator(_written_time),
        Query(description="Only from this time on; without a time zone, in UTC."),
    ] = None,
) -> AuditFilter:
    return AuditFilter(actor, action, about, refused, since)


Wanted = Annotated[AuditFilter, Depends(_wanted)]


def add_audit(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    """Add the endpoints."""

    @app.get("/api/audit", responses=responses(200, AuditList, 403, 422, 503), summary="List the audit log")
    async def audit(
        *,
        request: Request,
        wanted: Wanted,
        limit: Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Maximum number of items.")] = LIMIT_DEFAULT,
        cursor: Annotated[
            str,
            Query(description="`next_cursor` of the previous page.", json_schema_extra=optional(AUDIT.pattern)),
        ] = "",
    ) -> Response:
        before = AUDIT.decode(cursor)[0] if cursor else None
        principal = request_principal(request)

        def work() -> AuditList:
            rows = services.audit_log.page(wanted, principal, before=before, limit=limit + 1)
            page = rows[:limit]
            return AuditList(page, AUDIT.encode(page[-1].sequence) if len(rows) > limit else None)

        return json_response(await threads.run(work))

    @app.get(
        "/api/audit/export",
        responses=responses(200, "text/csv application/x-ndjson", 403, 422, 429, 503),
        response_class=StreamingResponse,
        summary="Export matching rows of the audit log, newest first, as CSV or JSON lines",
    )
    def export(
        *,
        request: Request,
        wanted: Wanted,
        form: Annotated[ExportFormat, Query(alias="format", description="Format of the export.")] = "csv",
    ) -> StreamingResponse:
        return export_response("audit", form, services.audit_log.export(wanted, form, request_principal(request)))
