"""REST: Jupyter notebooks on a period or on a lab run, with the data that the pages show."""

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import FastAPI, Query
from starlette.responses import Response

from filemill.adapters.postgres.server import server_time
from filemill.errors import Unavailable
from filemill.lab import notebook_documents
from filemill_dashboard.rest.errors import ApiError
from filemill_dashboard.rest.schema import responses
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state.downloads import attachment
from filemill_dashboard.state.services import Services

PERIOD_MAX_SECONDS = 7 * 86_400


def add_notebook(app: FastAPI, services: Services, threads: RequestThreads) -> None:
    """Add the endpoint."""
    settings = services.settings

    def time_range_response(period: int) -> Response:
        end = _now(services)
        connection = notebook_documents.connection_settings(settings, embedded=services.stack() is not None)
        notebook = notebook_documents.time_range_notebook(end - timedelta(seconds=period), end, connection)
        return _notebook_response(notebook_documents.encode(notebook), f"window-{end:%Y%m%d-%H%M%S}.ipynb")

    def run_response(name: str) -> Response:
        from filemill.lab.runs import list_runs  # noqa: PLC0415 - with pandas, whose import takes most of a second

        # Compared with the names of existing runs: a path from outside is never opened.
        root = settings.results.absolute()
        found = next((run for run in list_runs(root) if run.name == name), None)
        if found is None:
            raise ApiError(404, "not_found", f"there is no run {name}", "run")
        notebook = notebook_documents.run_notebook(root / found.name, found.frames)
        return _notebook_response(notebook_documents.encode(notebook), f"{found.name}.ipynb")

    @app.get(
        "/api/notebook",
        responses=responses(200, "application/x-ipynb+json", 404, 422, 503),
        response_class=Response,
        summary="Jupyter notebook on a period up to now, or on a lab run",
    )
    async def notebook(
        *,
        period: Annotated[
            int, Query(ge=1, le=PERIOD_MAX_SECONDS, description="Length of the period, in seconds.")
        ] = 900,
        run: Annotated[
            str, Query(max_length=255, description="Folder of a run, as the Experiments page lists it.")
        ] = "",
    ) -> Response:
        return await threads.run(lambda: run_response(run) if run else time_range_response(period))


def _now(services: Services) -> datetime:
    """The time of the database, which the notebook reads; that of this process if the database is unreachable."""
    with contextlib.suppress(Unavailable), services.connect() as connection:
        return server_time(connection)
    return datetime.now(UTC)


def _notebook_response(body: bytes, name: str) -> Response:
    headers = {"Content-Disposition": attachment(name), "X-Content-Type-Options": "nosniff"}
    return Response(body, headers=headers, media_type="application/x-ipynb+json")
