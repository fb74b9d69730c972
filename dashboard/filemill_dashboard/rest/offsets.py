"""REST: reset the offsets of a queue's consumer group, with a dry run that shows what is skipped and repeated."""

from fastapi import FastAPI, Request
from starlette.responses import Response

from filemill.errors import InvalidRequest
from filemill.services.offset_reset import CannotReset, InvalidTarget
from filemill_dashboard.rest.body import read_record
from filemill_dashboard.rest.errors import ApiError, json_response
from filemill_dashboard.rest.records import OffsetResetRequest, OffsetResetResult, PartitionMove
from filemill_dashboard.rest.schema import body_of, responses
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state.principals import request_principal
from filemill_dashboard.state.services import Services

# Times the server timeout: the skipped records are read, which takes longer than a database query.
TIMEOUT_FACTOR = 6


def add_offsets(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    """Add the endpoint."""

    @app.post(
        "/api/offsets/reset",
        responses=responses(200, OffsetResetResult, 400, 403, 409, 413, 422, 503),
        openapi_extra=body_of(OffsetResetRequest),
        summary="Reset consumer group offsets",
    )
    async def reset(request: Request) -> Response:
        wanted = await read_record(request, OffsetResetRequest)

        def work() -> OffsetResetResult:
            try:
                offset_reset = services.offset_reset(wanted.queue)
            except InvalidRequest as error:
                raise ApiError(409, "not_possible", str(error), "queue") from None
            try:
                plan = offset_reset.plan(wanted.target)
                moves = [PartitionMove.of(move) for move in plan.moves]
                if wanted.dry_run:
                    return OffsetResetResult(True, moves, plan.why_not, 0, 0)
                done = offset_reset.apply(plan, wanted.target, wanted.unfinished, request_principal(request))
            except InvalidTarget as error:
                raise ApiError(422, "invalid", str(error), "at") from None
            except CannotReset as error:
                raise ApiError(409, "not_possible", str(error)) from None
            return OffsetResetResult(False, moves, None, len(done.cancelled), len(done.resubmitted))

        return json_response(await threads.run(work, TIMEOUT_FACTOR * threads.timeout_seconds))
