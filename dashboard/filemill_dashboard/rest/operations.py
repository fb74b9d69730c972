"""REST: retry, cancel, delete; dead letters; workers; the pipeline at a glance.

What changes something is on record in `operations` with the caller's address.
"""

from typing import Annotated

from fastapi import FastAPI, Path, Query, Request
from starlette.responses import Response

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.cursors import DEAD_LETTERS, WORKERS
from filemill.domain.dead_letters import DeadLetter, DeadLetterFacts, reason_counts
from filemill.domain.file_actions import Action, RefusalCode
from filemill.domain.worker_commands import WorkerCommandKind
from filemill.errors import Unavailable
from filemill.queries.dead_letters import Content, chunks
from filemill.queries.files import get_file
from filemill.queries.group import overview
from filemill.queries.workers import WORKERS_MAX, WorkerQuery, count_workers, list_workers
from filemill.services.dead_letters import Replay
from filemill.services.operations import UnknownWorker
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
    ReplayRequest,
    RetrySelector,
    WorkerList,
)
from filemill_dashboard.rest.schema import body_of, optional, responses
from filemill_dashboard.rest.threads import RequestThreads, client_waits
from filemill_dashboard.state.services import Services

# Members of the group and partitions of a topic in one answer.
PIPELINE_MAX = 1000
# A whole topic is read: longer than for an answer of the database alone.
LETTERS_PATIENCE = 3


def add_operations(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    """Add the endpoints."""
    _add_files(app, services, threads)
    _add_many_files(app, services, threads)
    _add_letters(app, services, threads)
    _add_workers(app, services, threads)


def actor_of(request: Request) -> str:
    """Who asks, for the record: the address that the gate found."""
    return f"rest:{request.client.host}" if request.client else "rest"


def _add_files(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    async def act(action: Action, file_id: int, request: Request) -> FileRow | None:
        with client_waits() as wanted:

            def work() -> FileRow | None:
                if not wanted():
                    raise Unavailable("too late: the sender was answered already")
                outcome = services.operations.apply(action, [file_id], actor_of(request))
                for refused in outcome.refused:
                    code, status = ("not_found", 404) if refused.code is RefusalCode.NOT_FOUND else ("not_possible", 409)
                    raise ApiError(status, code, f"file {file_id} was not {action.done}: {refused.reason}", "id")
                with services.reading() as connection:
                    return get_file(connection, file_id)

            return await threads.run(work)

    @app.post("/api/files/{id}/retry", responses=responses(200, "FileRow", 403, 404, 409, 503), summary="A new run")
    async def retry(file_id: FileIdPath, request: Request) -> Response:
        return json_response(await act(Action.RETRY, file_id, request))

    @app.post(
        "/api/files/{id}/cancel", responses=responses(200, "FileRow", 403, 404, 409, 503), summary="End it unfinished"
    )
    async def cancel(file_id: FileIdPath, request: Request) -> Response:
        return json_response(await act(Action.CANCEL, file_id, request))

    @app.delete(
        "/api/files/{id}",
        status_code=204,
        responses=responses(204, "", 403, 404, 409, 503),
        summary="Delete a file that has ended, and its object",
    )
    async def delete(file_id: FileIdPath, request: Request) -> Response:
        await act(Action.DELETE, file_id, request)
        return Response(status_code=204)


def _add_many_files(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    async def many(action: Action, request: Request) -> Response:
        which = await read_record(request, RetrySelector)
        if bool(which.ids) + which.all + which.lost != 1:
            raise ApiError(422, "invalid", 'name files by "ids", or say "all": true with a status or a search', "ids")
        if which.lost and action is not Action.RETRY:
            raise ApiError(422, "invalid", "lost: only for a retry", "lost")

        def work() -> BulkResult:
            if which.lost:
                gone = services.operations.gone(limit=which.limit + 1)
                done = services.operations.resubmit(gone[: which.limit], actor_of(request))
                return BulkResult(done, [], more=len(gone) > which.limit)
            if not which.all:
                outcome = services.operations.apply(action, which.ids, actor_of(request))
                return BulkResult(outcome.done, outcome.refused, more=False)
            operations, selection = services.operations, which.selection
            upto = operations.newest()
            ids = operations.pick(action, selection, after=0, upto=upto, limit=which.limit + 1)
            outcome = services.operations.apply(action, ids[: which.limit], actor_of(request))
            return BulkResult(outcome.done, outcome.refused, more=len(ids) > which.limit)

        return json_response(await threads.run(work))

    told = responses(200, "Bulk", 400, 403, 413, 422, 503)

    @app.post("/api/files/retry", responses=told, openapi_extra=body_of(RetrySelector), summary="A new run, for many")
    async def retry(request: Request) -> Response:
        return await many(Action.RETRY, request)

    @app.post("/api/files/cancel", responses=told, openapi_extra=body_of(FileSelector), summary="End many unfinished")
    async def cancel(request: Request) -> Response:
        return await many(Action.CANCEL, request)

    @app.post(
        "/api/files/delete", responses=told, openapi_extra=body_of(FileSelector), summary="Delete many that have ended"
    )
    async def delete(request: Request) -> Response:
        return await many(Action.DELETE, request)


def _add_letters(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    patience = LETTERS_PATIENCE * threads.timeout_seconds
    index = services.dead_letters

    @app.get("/api/dead-letters", responses=responses(200, "LetterList", 422, 503), summary="Requests that failed")
    async def letters(
        *,
        still_broken: Annotated[bool, Query(description="Only failures that nothing was tried for since.")] = False,
        reason: Annotated[str, Query(description="Only those whose reason contains this.")] = "",
        limit: Annotated[int, Query(ge=1, le=DEAD_LETTERS_MAX, description="At most so many.")] = DEAD_LETTERS_DEFAULT,
        cursor: Annotated[
            str,
            Query(description="`next_cursor` of the page before.", json_schema_extra=optional(DEAD_LETTERS.pattern)),
        ] = "",
    ) -> Response:
        below = tuple(DEAD_LETTERS.decode(cursor)) if cursor else None

        def work() -> DeadLetterList:
            known = index.read(services.kafka)
            found = [
                letter
                for letter in known.items
                if (letter.still_broken or not still_broken) and reason.lower() in letter.reason.lower()
            ]
            newest = [letter for letter in reversed(found) if below is None or letter.order < below]
            page = next(chunks(newest[:limit]), [])
            contents = index.contents(services.kafka, page)
            items = [_letter(*one) for one in zip(page, contents, strict=True)]
            more = DEAD_LETTERS.encode(*page[-1].order) if len(newest) > len(page) else None
            return DeadLetterList(items, reason_counts(found), len(found), more, known.truncated)

        return json_response(await threads.run(work, patience))

    @app.post(
        "/api/dead-letters/replay",
        responses=responses(200, "Replay", 400, 403, 404, 413, 422, 503),
        openapi_extra=body_of(ReplayRequest),
        summary="Send requests through once more",
    )
    async def replay(request: Request) -> Response:
        order = await read_record(request, ReplayRequest)

        def work() -> Replay:
            found = index.find(services.kafka, order.places)
            missing = next((place for place in order.places if place not in found), None)
            if missing is not None:
                raise ApiError(404, "not_found", f"there is no dead letter {missing}", "places")
            return services.replay(
                list({letter.key: letter for letter in found.values()}.values()),
                actor_of(request),
                rate=float(DEAD_LETTERS_MAX),
                dry_run=order.dry_run,
                max_runs=order.max_runs,
            )

        return json_response(await threads.run(work, patience))


def _letter(letter: DeadLetter, content: Content | None) -> DeadLetterItem:
    facts = {name: getattr(letter, name) for name in DeadLetterFacts.__struct_fields__}
    value = None if content is None else (content.value or b"").decode(errors="backslashreplace")
    return DeadLetterItem(
        **facts, place=letter.place, value=value, trace=content.trace if content is not None else None
    )


def _add_workers(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    @app.get("/api/workers", responses=responses(200, "WorkerList", 422, 503), summary="The file processors")
    async def workers(
        *,
        limit: Annotated[int, Query(ge=1, le=WORKERS_MAX, description="At most so many.")] = WORKERS_MAX,
        cursor: Annotated[
            str,
            Query(description="`next_cursor` of the page before.", json_schema_extra=optional(WORKERS.pattern)),
        ] = "",
    ) -> Response:
        offset = WORKERS.decode(cursor)[0] if cursor else 0

        def work() -> WorkerList:
            with services.reading() as connection:
                found = list_workers(connection, WorkerQuery(offset=offset, limit=limit))
                total = sum(count_workers(connection).values())
            end = offset + len(found)
            return WorkerList(found, total, WORKERS.encode(end) if found and end < total else None)

        return json_response(await threads.run(work))

    async def tell(order: WorkerCommandKind, worker_id: str, request: Request) -> Response:

        def work() -> None:
            try:
                services.operations.command_workers(order, worker_id, actor_of(request))
            except UnknownWorker as error:
                raise ApiError(404, "not_found", str(error), "id") from None

        await threads.run(work, 2 * threads.timeout_seconds)
        return Response(status_code=204)

    told = responses(204, "", 403, 404, 503)
    Worker = Annotated[str, Path(alias="id", max_length=200)]  # noqa: N806 - a type

    @app.post("/api/workers/{id}/quiet", status_code=204, responses=told, summary="Have it take nothing new")
    async def quiet(worker_id: Worker, request: Request) -> Response:
        return await tell(WorkerCommandKind.QUIET, worker_id, request)

    @app.post("/api/workers/{id}/resume", status_code=204, responses=told, summary="Have it go on")
    async def resume(worker_id: Worker, request: Request) -> Response:
        return await tell(WorkerCommandKind.RESUME, worker_id, request)

    @app.get(
        "/api/pipeline", responses=responses(200, "Overview", 422, 503), summary="Counts, outbox, group, lag, leases"
    )
    async def pipeline(
        limit: Annotated[
            int, Query(ge=1, le=PIPELINE_MAX, description="At most so many members, and so many partitions.")
        ] = PIPELINE_MAX,
    ) -> Response:
        def work() -> object:
            with services.reading() as connection:
                settings = services.settings
                return overview(
                    connection,
                    settings.kafka_group,
                    processing_seconds=settings.longest_job_seconds,
                    session_seconds=settings.session_timeout_ms / 1000,
                ).cut(limit)

        return json_response(await threads.run(work))
