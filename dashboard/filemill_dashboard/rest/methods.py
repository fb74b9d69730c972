"""Methods: a path that is there but not for this method is 405, and `Allow` names all that it has."""

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send


class _NoSuchMethod:
    """Any other method of a path that is written out: it must not go on to a path with a parameter."""

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise HTTPException(405)


def prefer_written_paths(app: FastAPI) -> None:
    """Put `/api/files/retry` before `/api/files/{id}`, for every method: `GET /api/files/retry` is no file's path."""
    routes = app.router.routes
    written = [route for route in routes if isinstance(route, Route) and not route.param_convertors]
    others = [route for route in routes if route not in written]
    paths = dict.fromkeys(route.path for route in written)
    routes[:] = [*written, *(Route(path, _NoSuchMethod(), include_in_schema=False) for path in paths), *others]


def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """All methods of the path."""
    routes = [route for route in app.router.routes if isinstance(route, Route)]
    same = [route for route in routes if route.path == path] or [
        route for route in routes if route.path_regex.match(path)
    ]
    return sorted({method for route in same for method in route.methods or ()})
