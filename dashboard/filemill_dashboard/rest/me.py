"""REST: who the sender of a request is."""

from fastapi import FastAPI, Request
from starlette.responses import Response

from filemill_dashboard.rest.errors import json_response
from filemill_dashboard.rest.records import Me
from filemill_dashboard.rest.schema import responses
from filemill_dashboard.state.principals import request_principal


def add_me(app: FastAPI) -> None:
    """Add the endpoint."""

    @app.get("/api/me", responses=responses(200, Me), summary="Who the sender of this request is")
    async def me(request: Request) -> Response:
        principal = request_principal(request)
        by = principal.source.authentication if principal.token is None else f"token:{principal.token}"
        return json_response(Me(principal.name, principal.role, by))
