"""REST: retry, cancel and delete files; dead letters; workers; the state of the pipeline.

Each change is recorded in `operations` with the address of the client.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Protocol

import msgspec
from fastapi import FastAPI, Path, Query, Request
from starlette.responses import Response

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.cursors import DEAD_LETTERS, WORKERS
from filemill.domain.dead_letters import DeadLetter, DeadLetterFacts, reason_counts
from filemill.domain.file_actions import FileAction, RefusalCode
from filemill.domain.permissions import Principal
from filemill.domain.queues import topic_of
from filemill.domain.worker_commands import WorkerCommandKind
from filemill.errors import Conflict, Unavailable
from filemill.queries.dead_letters import DeadLetterContent, chunks
from filemill.queries.files import get_file
from filemill.queries.overview import overview
from filemill.queries.workers import WORKERS_MAX, WorkerQuery, WorkerView, count_workers, list_workers
from filemill.services.operations import Operations
from filemill_dashboard.rest.body import read_record
from filemill_dashboard.rest.errors import ApiError, json_response
from filemill_dashboard.rest.path import FileIdPath
from filemill_dashboard.rest.records import (
    DEAD_LETTERS_DEFAULT,
    DEAD_LETTERS_MAX,
    BulkResult,
    DeadLetterItem,
    DeadLetterList,
    FileSelector,
    PipelineState,
    ReplayRequest,
    ReplayResult,
    RetrySelector,
    WorkerItem,
    WorkerList,
)
from filemill_dashboard.rest.schema import body_of, optional, responses
from filemill_dashboard.rest.threads import RequestThreads, client_waits
from filemill_dashboard.state.principals import request_principal
from filemill_dashboard.state.services import Services
from filemill_dashboard.views.visibility import ShownState, Visibility


class LiveView(Protocol):
    """What is known now of servers and workers, as pages show it."""

    def visibility(self) -> Visibility:
        """Which servers are unreachable."""

    def worker_states(self, workers: Sequence[WorkerView]) -> Mapping[str, ShownState]:
        """The states of workers, by id."""


# Members of the group, and partitions of a topic, in one response.
PIPELINE_MAX = 1000
# Times the server timeout: a whole topic is read, which takes longer than a database query.
DEAD_LETTERS_TIMEOUT_FACTOR = 3


def add_operations(app: FastAPI, services: Services, threads: RequestThreads, view: Callable[[], LiveView]) -> None:
    """Add the endpoints."""
    _add_file_actions(app, services, threads)
    _add_bulk_actions(app, services, threads)
    _add_dead_letters(app, services, threads)
    _add_worker_list(app, services, threads, view)
    _add_worker_commands(app, services, threads)
    _add_pipeline(app, services, threads, view)


def _add_file_actions(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    async def apply(action: FileAction, file_id: int, request: Request) -> FileRow | None:
        with client_waits() as still_wanted:

            def work() -> FileRow | None:
                if not still_wanted():
                    raise Unavailable("too late: the client was answered already")
                outcome = services.operations.apply(action, [file_id], request_principal(request))
                for refused in outcome.refused:
                    if refused.code is RefusalCode.NOT_OWN:
                        raise ApiError(403, "forbidden", refused.reason, "id")
                    not_found = refused.code is RefusalCode.NOT_FOUND
                    status, code = (404, "not_found") if not_found else (409, "not_possible")
                    raise ApiError(status, code, f"file {file_id} was not {action.done}: {refused.reason}", "id")
                with services.connect() as connection:
                    return get_file(connection, file_id)

            return await threads.run(work)

    file_responses = responses(200, FileRow, 403, 404, 409, 503)

    @app.post("/api/files/{id}/retry", responses=file_responses, summary="Retry a file as a new run")
    async def retry(file_id: FileIdPath, request: Request) -> Response:
        return json_response(await apply(FileAction.RETRY, file_id, request))

    @app.post("/api/files/{id}/cancel", responses=file_responses, summary="Cancel an unfinished file")
    async def cancel(file_id: FileIdPath, request: Request) -> Response:
        return json_response(await apply(FileAction.CANCEL, file_id, request))

    @app.delete(
        "/api/files/{id}",
        status_code=204,
        responses=responses(204, None, 403, 404, 409, 503),
        summary="Delete a finished file and its object",
    )
    async def delete(file_id: FileIdPath, request: Request) -> Response:
        await apply(FileAction.DELETE, file_id, request)
        return Response(status_code=204)


def _apply_to_many(operations: Operations, action: FileAction, selector: RetrySelector, who: Principal) -> BulkResult:
    limit = selector.limit
    if selector.lost or selector.all:
        operations.authorize_all(action, who)
    if selector.lost:
        gone = operations.gone_requests(limit=limit + 1)
        return BulkResult(operations.resubmit(gone[:limit], who), [], more=len(gone) > limit)
    if not selector.all:
        return BulkResult.of(operations.apply(action, selector.ids, who), more=False)
    upto = operations.newest_id()
    ids = operations.matching_ids(action, selector.selection, after=0, upto=upto, limit=limit + 1)
    return BulkResult.of(operations.apply(action, ids[:limit], who), more=len(ids) > limit)


def _add_bulk_actions(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    async def apply(action: FileAction, request: Request) -> Response:
        selector = await read_record(request, RetrySelector)
        if bool(selector.ids) + selector.all + selector.lost != 1:
            raise ApiError(422, "invalid", 'give either "ids", or "all": true with a status or a search', "ids")
        if selector.lost and action is not FileAction.RETRY:
            raise ApiError(422, "invalid", "lost: only allowed for retry", "lost")
        principal = request_principal(request)
        work = partial(_apply_to_many, services.operations, action, selector, principal)
        return json_response(await threads.run(work))

    bulk_responses = responses(200, BulkResult, 400, 403, 413, 422, 503)
    retry_body, body = body_of(RetrySelector), body_of(FileSelector)

    @app.post("/api/files/retry", responses=bulk_responses, openapi_extra=retry_body, summary="Retry many files")
    async def retry(request: Request) -> Response:
        return await apply(FileAction.RETRY, request)

    @app.post("/api/files/cancel", responses=bulk_responses, openapi_extra=body, summary="Cancel many unfinished files")
    async def cancel(request: Request) -> Response:
        return await apply(FileAction.CANCEL, request)

    @app.post("/api/files/delete", responses=bulk_responses, openapi_extra=body, summary="Delete many finished files")
    async def delete(request: Request) -> Response:
        return await apply(FileAction.DELETE, request)


def _add_dead_letters(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    timeout_seconds = DEAD_LETTERS_TIMEOUT_FACTOR * threads.timeout_seconds
    index = services.dead_letters

    @app.get("/api/dead-letters", responses=responses(200, DeadLetterList, 422, 503), summary="List dead letters")
    async def letters(
        *,
        still_broken: Annotated[
            bool,
            Query(
                description="Only dead letters of files that failed and have not been retried, or without a file id."
            ),
        ] = False,
        reason: Annotated[str, Query(description="Only dead letters whose reason contains this text.")] = "",
        queue: Annotated[str, Query(description="Only dead letters of requests of this queue.")] = "",
        limit: Annotated[int, Query(ge=1, le=DEAD_LETTERS_MAX, description="Maximum number of items.")] = (
            DEAD_LETTERS_DEFAULT
        ),
        cursor: Annotated[
            str,
            Query(description="`next_cursor` of the previous page.", json_schema_extra=optional(DEAD_LETTERS.pattern)),
        ] = "",
    ) -> Response:
        below = tuple(DEAD_LETTERS.decode(cursor)) if cursor else None
        topic = topic_of(queue, services.settings.all_queues)

        def work() -> DeadLetterList:
            known = index.read(services.kafka)
            found = [
                letter
                for letter in known.items
                if (letter.still_broken or not still_broken)
                and reason.lower() in letter.reason.lower()
                and (not topic or letter.source_topic == topic)
            ]
            newest = [letter for letter in reversed(found) if below is None or letter.order < below]
            page = next(chunks(newest[:limit]), [])
            contents = index.contents(services.kafka, page)
            items = [_dead_letter_item(*one) for one in zip(page, contents, strict=True)]
            next_cursor = DEAD_LETTERS.encode(*page[-1].order) if len(newest) > len(page) else None
            return DeadLetterList(items, reason_counts(found), len(found), next_cursor, known.truncated)

        return json_response(await threads.run(work, timeout_seconds))

    @app.post(
        "/api/dead-letters/replay",
        responses=responses(200, ReplayResult, 400, 403, 404, 413, 422, 503),
        openapi_extra=body_of(ReplayRequest),
        summary="Replay dead letters as new runs",
    )
    async def replay(request: Request) -> Response:
        wanted = await read_record(request, ReplayRequest)

        def work() -> ReplayResult:
            found = index.find(services.kafka, wanted.places)
            missing = next((place for place in wanted.places if place not in found), None)
            if missing is not None:
                raise ApiError(404, "not_found", f"there is no dead letter {missing}", "places")
            result = services.replay(
                list({letter.key: letter for letter in found.values()}.values()),
                request_principal(request),
                rate=float(DEAD_LETTERS_MAX),
                dry_run=wanted.dry_run,
                max_runs=wanted.max_runs,
            )
            return ReplayResult(**msgspec.structs.asdict(result))

        return json_response(await threads.run(work, timeout_seconds))


def _dead_letter_item(letter: DeadLetter, content: DeadLetterContent | None) -> DeadLetterItem:
    facts = {name: getattr(letter, name) for name in DeadLetterFacts.__struct_fields__}
    value = None if content is None else (content.value or b"").decode(errors="backslashreplace")
    headers, trace = ([], None) if content is None else (content.headers, content.trace)
    return DeadLetterItem(**facts, place=letter.place, value=value, trace=trace, headers=headers)


def _add_worker_list(app: FastAPI, services: Services, threads: RequestThreads, view: Callable[[], LiveView]) -> None:
    @app.get("/api/workers", responses=responses(200, WorkerList, 422, 503), summary="List file processors")
    async def workers(
        *,
        limit: Annotated[int, Query(ge=1, le=WORKERS_MAX, description="Maximum number of items.")] = WORKERS_MAX,
        cursor: Annotated[
            str,
            Query(description="`next_cursor` of the previous page.", json_schema_extra=optional(WORKERS.pattern)),
        ] = "",
    ) -> Response:
        offset = WORKERS.decode(cursor)[0] if cursor else 0

        def work() -> WorkerList:
            with services.connect() as connection:
                found = list_workers(connection, WorkerQuery(offset=offset, limit=limit))
                total = sum(count_workers(connection).values())
            end, shown = offset + len(found), view().worker_states(found)
            items = [WorkerItem(**{**msgspec.structs.asdict(one), "condition": shown[one.id]}) for one in found]
            return WorkerList(items, total, WORKERS.encode(end) if found and end < total else None)

        return json_response(await threads.run(work))


def _add_worker_commands(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    async def send(command: WorkerCommandKind, worker_id: str, request: Request) -> Response:

        def work() -> None:
            services.operations.command_workers(command, worker_id, request_principal(request))

        await threads.run(work, 2 * threads.timeout_seconds)
        return Response(status_code=204)

    command_responses = responses(204, None, 403, 404, 503)
    WorkerId = Annotated[str, Path(alias="id", max_length=200, description="The worker's id.")]  # noqa: N806 - a type

    @app.delete(
        "/api/workers/{id}",
        status_code=204,
        responses=responses(204, None, 403, 404, 409, 503),
        summary="Forget a worker that has stopped",
    )
    async def forget(worker_id: WorkerId, request: Request) -> Response:
        """Its events are kept. A worker that runs is refused: one that has sent an event within ten minutes."""

        def work() -> None:
            try:
                services.operations.forget_workers([worker_id], request_principal(request))
            except Conflict as error:
                raise ApiError(409, "not_possible", str(error), "id") from None

        await threads.run(work)
        return Response(status_code=204)

    @app.post("/api/workers/{id}/quiet", status_code=204, responses=command_responses, summary="Quiet a worker")
    async def quiet(worker_id: WorkerId, request: Request) -> Response:
        """A quiet worker finishes its records and takes no new ones."""
        return await send(WorkerCommandKind.QUIET, worker_id, request)

    @app.post("/api/workers/{id}/resume", status_code=204, responses=command_responses, summary="Resume a worker")
    async def resume(worker_id: WorkerId, request: Request) -> Response:
        return await send(WorkerCommandKind.RESUME, worker_id, request)


def _add_pipeline(app: FastAPI, services: Services, threads: RequestThreads, view: Callable[[], LiveView]) -> None:
    @app.get(
        "/api/pipeline",
        responses=responses(200, PipelineState, 422, 503),
        summary="State of the pipeline: counts, outbox, group, lag, leases",
    )
    async def pipeline(
        limit: Annotated[
            int, Query(ge=1, le=PIPELINE_MAX, description="Maximum number of members, and of partitions.")
        ] = PIPELINE_MAX,
    ) -> Response:
        def work() -> PipelineState:
            with services.connect() as connection:
                settings = services.settings
                found = overview(
                    connection,
                    settings.kafka_group,
                    processing_seconds=settings.longest_job_seconds,
                    session_seconds=settings.session_timeout_ms / 1000,
                )
            return PipelineState.of(found.cut(limit), view().visibility())

        return json_response(await threads.run(work))
