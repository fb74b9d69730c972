"""The REST application: create, list, show and download files; `/healthz` and `/readyz`. Other modules add the rest.

Blocking work runs on a limited number of threads that pages do not use. If PostgreSQL does not answer within the server
timeout, the response is 503.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import anyio
from anyio import to_thread
from fastapi import FastAPI, Header, Query, Request
from starlette.responses import Response, StreamingResponse

import filemill
from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.file_actions import FileSelection
from filemill.domain.files import Status
from filemill.domain.idempotency import HEADER, KEY_MAX_CHARACTERS, KEY_PATTERN, parse_key
from filemill.domain.integrity import ObjectMismatch
from filemill.domain.messages import valid_traceparent
from filemill.errors import Unavailable
from filemill.queries.files import (
    FILES_CURSOR,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    FileDetails,
    file_details,
    get_file,
    list_files,
)
from filemill_dashboard.rest.audit import add_audit
from filemill_dashboard.rest.batching import SubmissionBatcher
from filemill_dashboard.rest.body import read_new_file
from filemill_dashboard.rest.errors import (
    ApiError,
    InternalErrorMiddleware,
    add_handlers,
    error_response,
    json_response,
)
from filemill_dashboard.rest.export import add_export
from filemill_dashboard.rest.handlers import add_handlers_of_workers
from filemill_dashboard.rest.local_requests import is_direct_from_this_machine
from filemill_dashboard.rest.me import add_me
from filemill_dashboard.rest.methods import prefer_literal_paths
from filemill_dashboard.rest.notebook import add_notebook
from filemill_dashboard.rest.offsets import add_offsets
from filemill_dashboard.rest.operations import LiveView, add_operations
from filemill_dashboard.rest.path import FileIdPath
from filemill_dashboard.rest.schema import NEW_FILE_BODY, complete_document, optional, responses, with_response_header
from filemill_dashboard.rest.scripts import add_scripts
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state.downloads import open_download
from filemill_dashboard.state.health import ServerHealth, failing
from filemill_dashboard.state.principals import request_owner, request_principal
from filemill_dashboard.state.services import Services

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=HEADER,
        max_length=KEY_MAX_CHARACTERS + 2,
        pattern=KEY_PATTERN,
        description="Any text, unique to this request. If it is repeated with the same key within 24 hours, it is "
        "accepted only once and gets the same response.",
    ),
]
REPLAYED = "Idempotency-Replayed"
MAYBE_ACCEPTED = f"The request may have been accepted. Use an {HEADER} header to retry safely, with the same key"


def build_api(
    services: Services, check_servers: Callable[[], list[ServerHealth]], view: Callable[[], LiveView]
) -> FastAPI:
    """The ASGI app for all paths that are not pages.

    `check_servers` may block for the server timeout. `view` gives what pages know now.
    """
    app = FastAPI(
        title="filemill",
        version=filemill.__version__,
        summary="Create files, follow their processing, download them.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # these pages load their scripts from a CDN
        redoc_url=None,
    )
    add_handlers(app)
    threads = RequestThreads(services.settings)
    add_export(app, services)
    _add_files(app, services, threads)
    add_handlers_of_workers(app, services, threads)
    add_operations(app, services, threads, view)
    add_offsets(app, services, threads)
    add_notebook(app, services, threads)
    add_audit(app, services, threads)
    add_me(app)
    _add_health(app, check_servers)
    add_scripts(app)
    complete_document(app)
    prefer_literal_paths(app)
    app.add_middleware(InternalErrorMiddleware)
    return app


def _add_files(app: FastAPI, services: Services, threads: RequestThreads) -> None:  # noqa: C901 - a list of endpoints
    def find(file_id: int, request: Request) -> FileRow:
        with services.connect() as connection:
            row = get_file(connection, file_id, request_owner(request, services.settings))
        if row is None:
            raise ApiError(404, "not_found", f"there is no file {file_id}", "id")
        return row

    batcher = SubmissionBatcher(services, threads)

    @app.get(
        "/api/files",
        responses=responses(200, "FileList", 422, 503),
        summary="List files, newest first by default",
    )
    async def files(
        *,
        request: Request,
        status: Annotated[Status | None, Query(description="Only files with this status.")] = None,
        search: Annotated[str, Query(description="Part of the title, or `#` and an id.")] = "",
        queue: Annotated[str, Query(description="Only files of this queue.")] = "",
        handler: Annotated[str, Query(description="Only files of this handler.")] = "",
        limit: Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Maximum number of items.")] = LIMIT_DEFAULT,
        cursor: Annotated[
            str,
            Query(
                description="`next_cursor` or `previous_cursor` of a page.", json_schema_extra=optional(FILES_CURSOR)
            ),
        ] = "",
        sort: Annotated[Literal["newest", "oldest"], Query(description="Order of the files.")] = "newest",
    ) -> Response:
        selection = FileSelection(status, search, queue, handler, request_owner(request, services.settings))

        def work() -> dict[str, object]:
            with services.connect() as connection:
                page = list_files(connection, selection, limit=limit, cursor=cursor, oldest_first=sort == "oldest")
            return {"items": page.items, "next_cursor": page.next, "previous_cursor": page.previous}

        return json_response(await threads.run(work))

    @app.post(
        "/api/files",
        status_code=201,
        responses=with_response_header(
            responses(201, FileRow, 400, 403, 409, 413, 422, 429, 503),
            201,
            REPLAYED,
            "`true`: the request was accepted before with the same key; this is the same response.",
        ),
        openapi_extra={"requestBody": NEW_FILE_BODY},
        summary="Create a file",
    )
    async def create(request: Request, key: IdempotencyKey = None) -> Response:
        file = await read_new_file(request)
        traceparent = valid_traceparent(request.headers.get("traceparent"))
        replayed, principal = False, request_principal(request)
        try:
            if key is None:
                row = await batcher.submit(file, traceparent, principal)
            else:
                row, replayed = await batcher.submit_once(file, parse_key(key), traceparent, principal)
        except Unavailable as error:
            raise Unavailable(f"{str(error).rstrip('.')}. {MAYBE_ACCEPTED}") from error
        headers = {"Location": f"/api/files/{row.id}"}
        return json_response(row, 201, {**headers, REPLAYED: "true"} if replayed else headers)

    @app.get("/api/files/{id}", responses=responses(200, FileDetails, 404, 422, 503), summary="Get a file")
    async def one(file_id: FileIdPath, request: Request) -> Response:
        def details() -> FileDetails:
            with services.connect() as connection:
                return file_details(connection, find(file_id, request))

        return json_response(await threads.run(details))

    @app.get(
        "/api/files/{id}/download",
        responses=responses(200, "text/plain", 404, 409, 422, 502, 503),
        response_class=StreamingResponse,
        summary="Download the content of a completed file",
    )
    async def download(file_id: FileIdPath, request: Request) -> Response:
        row = await threads.run(lambda: find(file_id, request))
        if row.status is not Status.COMPLETED or row.s3_location is None:
            reason = f": {row.error}" if row.error else ""
            raise ApiError(409, "not_completed", f"file {file_id} is {row.status}, not completed{reason}")
        key = row.s3_location
        try:
            with anyio.fail_after(2 * threads.timeout_seconds):
                found = await to_thread.run_sync(lambda: open_download(services, row, key), abandon_on_cancel=True)
        except TimeoutError:
            raise Unavailable(f"no answer from S3 at {services.settings.s3_endpoint}") from None
        except ObjectMismatch as error:
            raise ApiError(502, "object_differs", str(error)) from None
        if found is None:
            raise ApiError(404, "object_missing", f"the bucket {services.settings.s3_bucket} has no object {key}")
        return StreamingResponse(found.chunks, headers=found.headers)


def _add_health(app: FastAPI, check_servers: Callable[[], list[ServerHealth]]) -> None:
    @app.get("/api", include_in_schema=False)
    @app.get("/api/", include_in_schema=False)
    async def index() -> Response:
        return json_response({"name": "filemill", "version": filemill.__version__, "openapi": "/api/openapi.json"})

    @app.get("/healthz", summary="Liveness of this process")
    @app.head("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return json_response({"status": "ok", "version": filemill.__version__})

    @app.get(
        "/readyz",
        responses={503: {"description": "A server is unreachable or not set up"}},
        summary="Readiness of all servers",
    )
    async def readyz(request: Request) -> Response:
        health = await to_thread.run_sync(check_servers, abandon_on_cancel=True)
        failed = failing(health)
        signed_in = request_principal(request).role is not None
        with_details = signed_in and is_direct_from_this_machine(request)
        body: dict[str, Any] = {
            "status": "unavailable" if failed else "ok",
            "version": filemill.__version__,
            "servers": {
                server.server: server if with_details else {"server": server.server, "ok": server.ok}
                for server in health
            },
        }
        if not failed:
            return json_response(body)
        message = "; ".join(f"{server.server}: {server.problem if with_details else 'not ok'}" for server in failed)
        response = error_response(503, "unavailable", message)
        body["error"] = {"code": "unavailable", "message": message, "field": None}
        return json_response(body, 503, {"Retry-After": response.headers["Retry-After"]})
