"""REST: asking for files, listing and downloading them, `/healthz`, `/readyz`; `api_operations` has the rest.

Handlers do their blocking work on threads of their own number, so that neither page loads nor a database that hangs
take their place. A request that Postgres has not answered within the server timeout is answered 503.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import anyio
from anyio import to_thread
from fastapi import FastAPI, Header, Query, Request
from starlette.responses import Response, StreamingResponse

import filemill
from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.files import Status
from filemill.domain.idempotency import HEADER, KEY_MAX_CHARACTERS, KEY_PATTERN, parse_key
from filemill.domain.integrity import ObjectMismatch
from filemill.domain.messages import valid_traceparent
from filemill.errors import Unavailable
from filemill.queries.files import FILES_CURSOR, LIMIT_DEFAULT, LIMIT_MAX, get_file, list_files
from filemill_dashboard.asgi.proxies import is_direct_from_this_machine
from filemill_dashboard.asgi.scripts import add_scripts
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
from filemill_dashboard.rest.methods import prefer_literal_paths
from filemill_dashboard.rest.notebook import add_notebook
from filemill_dashboard.rest.offsets import add_offsets
from filemill_dashboard.rest.operations import add_operations
from filemill_dashboard.rest.path import FileIdPath
from filemill_dashboard.rest.schema import BODY, complete_document, optional, responses, with_response_header
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state.downloads import open_download
from filemill_dashboard.state.health import ServerHealth, failing
from filemill_dashboard.state.services import Services

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=HEADER,
        max_length=KEY_MAX_CHARACTERS + 2,
        pattern=KEY_PATTERN,
        description="A text of your choice, new for each request. A request that is sent again with the same key "
        "within 24 hours is accepted once, and gets the same answer.",
    ),
]
REPLAYED = "Idempotency-Replayed"
MAYBE_ACCEPTED = f"The request may have been accepted. With an {HEADER} it can be sent again safely, with the same key"


def build_api(services: Services, check_servers: Callable[[], list[ServerHealth]]) -> FastAPI:
    """The ASGI app of all paths that are not pages. `check_servers` may block for the server timeout."""
    app = FastAPI(
        title="filemill",
        version=filemill.__version__,
        summary="Ask for files, watch them being made, download them.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # these pages load their scripts from a CDN
        redoc_url=None,
    )
    add_handlers(app)
    threads = RequestThreads(services.settings)
    add_export(app, services)
    _add_files(app, services, threads)
    add_operations(app, services, threads)
    add_offsets(app, services, threads)
    add_notebook(app, services, threads)
    _add_health(app, check_servers)
    add_scripts(app)
    complete_document(app)
    prefer_literal_paths(app)
    app.add_middleware(InternalErrorMiddleware)
    return app


def _add_files(app: FastAPI, services: Services, threads: RequestThreads) -> None:  # noqa: C901 - a list of endpoints
    def find(file_id: int) -> FileRow:
        with services.reading() as connection:
            row = get_file(connection, file_id)
        if row is None:
            raise ApiError(404, "not_found", f"there is no file {file_id}", "id")
        return row

    acceptance = SubmissionBatcher(services, threads)

    @app.get(
        "/api/files",
        responses=responses(200, "FileList", 422, 503),
        summary="List files, newest first unless told otherwise",
    )
    async def files(
        *,
        status: Annotated[Status | None, Query(description="Only files of this status.")] = None,
        search: Annotated[str, Query(description="A part of the title, or `#` and an id.")] = "",
        limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT,
        cursor: Annotated[
            str,
            Query(
                description="`next_cursor` or `previous_cursor` of a page.", json_schema_extra=optional(FILES_CURSOR)
            ),
        ] = "",
        sort: Annotated[Literal["newest", "oldest"], Query(description="What comes first.")] = "newest",
    ) -> Response:
        def work() -> dict[str, object]:
            with services.reading() as connection:
                page = list_files(
                    connection, status=status, search=search, limit=limit, cursor=cursor, oldest_first=sort == "oldest"
                )
            return {"items": page.items, "next_cursor": page.next, "previous_cursor": page.previous}

        return json_response(await threads.run(work))

    @app.post(
        "/api/files",
        status_code=201,
        responses=with_response_header(
            responses(201, "FileRow", 400, 403, 409, 413, 422, 503),
            201,
            REPLAYED,
            "`true`: it was accepted before, with the same key; the answer is the one of then.",
        ),
        openapi_extra={"requestBody": BODY},
        summary="Ask for a file",
    )
    async def create(request: Request, key: IdempotencyKey = None) -> Response:
        file = await read_new_file(request)
        traceparent = valid_traceparent(request.headers.get("traceparent"))
        replayed = False
        try:
            if key is None:
                row = await acceptance.submit(file, traceparent)
            else:
                row, replayed = await acceptance.submit_once(file, parse_key(key), traceparent)
        except Unavailable as error:
            raise Unavailable(f"{str(error).rstrip('.')}. {MAYBE_ACCEPTED}") from error
        headers = {"Location": f"/api/files/{row.id}"}
        return json_response(row, 201, {**headers, REPLAYED: "true"} if replayed else headers)

    @app.get("/api/files/{id}", responses=responses(200, "FileRow", 404, 422, 503), summary="One file")
    async def one(file_id: FileIdPath) -> Response:
        return json_response(await threads.run(lambda: find(file_id)))

    @app.get(
        "/api/files/{id}/download",
        responses=responses(200, "text/plain", 404, 409, 422, 502, 503),
        response_class=StreamingResponse,
        summary="A completed file's content",
    )
    async def download(file_id: FileIdPath) -> Response:
        row = await threads.run(lambda: find(file_id))
        if row.status is not Status.COMPLETED or row.s3_location is None:
            why = f": {row.error}" if row.error else ""
            raise ApiError(409, "not_completed", f"file {file_id} is {row.status}, not completed{why}")
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

    @app.get("/healthz", summary="This process is alive")
    @app.head("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return json_response({"status": "ok", "version": filemill.__version__})

    @app.get("/readyz", responses={503: {"description": "A server is away or not set up"}}, summary="All servers are")
    async def readyz(request: Request) -> Response:
        health = await to_thread.run_sync(check_servers, abandon_on_cancel=True)
        missing = failing(health)
        told = is_direct_from_this_machine(request)
        body: dict[str, Any] = {
            "status": "unavailable" if missing else "ok",
            "version": filemill.__version__,
            "servers": {
                server.server: server if told else {"server": server.server, "ok": server.ok} for server in health
            },
        }
        if not missing:
            return json_response(body)
        said = "; ".join(f"{server.server}: {server.problem if told else 'not ok'}" for server in missing)
        answer = error_response(503, "unavailable", said)
        body["error"] = {"code": "unavailable", "message": said, "field": None}
        return json_response(body, 503, {"Retry-After": answer.headers["Retry-After"]})
