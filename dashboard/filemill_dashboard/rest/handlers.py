"""REST: the handlers that running workers have announced."""

from typing import Annotated

from fastapi import FastAPI, Path
from starlette.responses import Response

from filemill.domain.handlers import HANDLER_NAME_PATTERN
from filemill.queries.handlers import HandlerView, live_handlers
from filemill_dashboard.rest.errors import ApiError, json_response
from filemill_dashboard.rest.records import HandlerList
from filemill_dashboard.rest.schema import responses
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state.services import Services


def add_handlers_of_workers(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    """Add the endpoints."""

    def read() -> list[HandlerView]:
        with services.connect() as connection:
            return live_handlers(connection)

    @app.get("/api/handlers", responses=responses(200, HandlerList, 503), summary="List the handlers of the workers")
    async def handlers() -> Response:
        return json_response(HandlerList(await threads.run(read)))

    @app.get(
        "/api/handlers/{name}",
        responses=responses(200, HandlerView, 404, 422, 503),
        summary="Get a handler and the JSON Schema of its parameters",
    )
    async def handler(
        name: Annotated[str, Path(pattern=HANDLER_NAME_PATTERN, description="Name of the handler.")],
    ) -> Response:
        found = await threads.run(read)
        known = next((one for one in found if one.name == name), None)
        if known is None:
            names = ", ".join(one.name for one in found)
            raise ApiError(404, "not_found", f"no running worker has the handler {name}; there are: {names}", "name")
        return json_response(known)
