"""REST: moving the group's offsets, after a look at what that would skip and repeat."""

from fastapi import FastAPI, Request
from starlette.responses import Response

from filemill.services.offset_reset import CannotReset, InvalidTarget
from filemill_dashboard.rest.body import read_record
from filemill_dashboard.rest.errors import ApiError, json_response
from filemill_dashboard.rest.operations import actor_of
from filemill_dashboard.rest.records import OffsetResetRequest, OffsetResetResult, PartitionMove
from filemill_dashboard.rest.schema import body_of, responses
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state.services import Services

# Records that would be skipped are read: longer than for an answer of the database alone.
PATIENCE = 6


def add_offsets(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    """Add the endpoint."""

    @app.post(
        "/api/offsets/reset",
        responses=responses(200, "OffsetsMoved", 400, 403, 409, 413, 422, 503),
        openapi_extra=body_of(OffsetResetRequest),
        summary="Have the processors' group read from elsewhere",
    )
    async def reset(request: Request) -> Response:
        order = await read_record(request, OffsetResetRequest)

        def work() -> OffsetResetResult:
            mover = services.offset_reset
            try:
                plan = mover.plan(order.target)
                moves = [PartitionMove.of(move) for move in plan.moves]
                if order.dry_run:
                    return OffsetResetResult(True, moves, plan.why_not, 0, 0)
                done = mover.apply(plan, order.target, order.unfinished, actor_of(request))
            except InvalidTarget as error:
                raise ApiError(422, "invalid", str(error), "at") from None
            except CannotReset as error:
                raise ApiError(409, "not_possible", str(error)) from None
            services.wake_relay()
            return OffsetResetResult(False, moves, None, len(done.cancelled), len(done.resubmitted))

        return json_response(await threads.run(work, PATIENCE * threads.timeout_seconds))
