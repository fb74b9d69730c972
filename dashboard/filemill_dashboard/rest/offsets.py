"""REST: moving the group's offsets, after a look at what that would skip and repeat."""

from fastapi import FastAPI, Request
from starlette.responses import Response

from filemill.services.offset_reset import CannotReset, InvalidTarget
from filemill_dashboard.rest.body import read_as
from filemill_dashboard.rest.errors import Refused, json_answer
from filemill_dashboard.rest.operations import actor_of
from filemill_dashboard.rest.records import OffsetOrder, OffsetsMoved, PartitionMove
from filemill_dashboard.rest.schema import answers, body_of
from filemill_dashboard.rest.threads import Threads
from filemill_dashboard.state.services import Services

# Records that would be skipped are read: longer than for an answer of the database alone.
PATIENCE = 6


def add_offsets(app: FastAPI, services: Services, threads: Threads) -> None:
    """Add the endpoint."""

    @app.post(
        "/api/offsets/reset",
        responses=answers(200, "OffsetsMoved", 400, 403, 409, 413, 422, 503),
        openapi_extra=body_of(OffsetOrder),
        summary="Have the processors' group read from elsewhere",
    )
    async def reset(request: Request) -> Response:
        order = await read_as(request, OffsetOrder)

        def work() -> OffsetsMoved:
            mover = services.offset_reset
            try:
                plan = mover.plan(order.target)
                moves = [PartitionMove.of(move) for move in plan.moves]
                if order.dry_run:
                    return OffsetsMoved(True, moves, plan.why_not, 0, 0)
                done = mover.apply(plan, order.target, order.unfinished, actor_of(request))
            except InvalidTarget as error:
                raise Refused(422, "invalid", str(error), "at") from None
            except CannotReset as error:
                raise Refused(409, "not_possible", str(error)) from None
            services.wake_relay()
            return OffsetsMoved(False, moves, None, len(done.cancelled), len(done.resubmitted))

        return json_answer(await threads.run(work, PATIENCE * threads.patience))
