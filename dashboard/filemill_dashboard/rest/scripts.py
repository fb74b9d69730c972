"""Plotly's own script from the Python package, for the charts.

Streamlit also has one, but `st.plotly_chart` replaces the chart whenever its data changes (1.67: the element's identity
is a hash of its figure), which redraws it from nothing every two seconds. Our charts stay and are updated in place
(`Plotly.react`).
"""

import gzip
from functools import cache

from anyio import to_thread
from fastapi import FastAPI, Request
from plotly.offline import get_plotlyjs, get_plotlyjs_version  # type: ignore[import-untyped]
from starlette.responses import Response

from filemill_dashboard.rest.errors import error_response

PLOTLY_PATH = f"/assets/plotly-{get_plotlyjs_version()}.js"
# The version is part of the path, so a browser never has to ask again.
_CACHE_FOREVER = "public, max-age=31536000, immutable"


def add_scripts(app: FastAPI) -> None:
    """Add the endpoint."""

    @app.get("/assets/{name}", include_in_schema=False)
    async def script(name: str, request: Request) -> Response:
        if f"/assets/{name}" != PLOTLY_PATH:
            return error_response(404, "not_found", f"there is nothing at /assets/{name}")
        headers = {"Cache-Control": _CACHE_FOREVER, "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(_plain(), headers=headers, media_type="text/javascript")
        compressed = await to_thread.run_sync(_compressed)
        return Response(compressed, headers={**headers, "Content-Encoding": "gzip"}, media_type="text/javascript")


def _plain() -> bytes:
    return str(get_plotlyjs()).encode()


@cache
def _compressed() -> bytes:
    """A third of the size; compressed once, at the first request."""
    return gzip.compress(_plain(), 6)
