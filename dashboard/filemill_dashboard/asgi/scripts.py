"""Plotly's own script, from the Python package, for the charts.

Streamlit has one too, and `st.plotly_chart` puts a new chart into the page whenever its data changes (1.67: the
element's identity is a hash of its figure), which costs a redraw from nothing every two seconds. Ours is kept and told
what is new (`Plotly.react`).
"""

import gzip
from functools import cache

from anyio import to_thread
from fastapi import FastAPI, Request
from plotly.offline import get_plotlyjs, get_plotlyjs_version  # type: ignore[import-untyped]
from starlette.responses import Response

from filemill_dashboard.rest.errors import error_response

PLOTLY_PATH = f"/assets/plotly-{get_plotlyjs_version()}.js"
# Its version is in its name, so a browser need never ask again.
_FOR_EVER = "public, max-age=31536000, immutable"


def add_scripts(app: FastAPI) -> None:
    """Serve it."""

    @app.get("/assets/{name}", include_in_schema=False)
    async def script(name: str, request: Request) -> Response:
        if f"/assets/{name}" != PLOTLY_PATH:
            return error_response(404, "not_found", f"there is nothing at /assets/{name}")
        headers = {"Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(_plain(), headers=headers, media_type="text/javascript")
        packed = await to_thread.run_sync(_packed)
        return Response(packed, headers={**headers, "Content-Encoding": "gzip"}, media_type="text/javascript")


def _plain() -> bytes:
    return str(get_plotlyjs()).encode()


@cache
def _packed() -> bytes:
    """A third of its size; packed once, at the first request."""
    return gzip.compress(_plain(), 6)
