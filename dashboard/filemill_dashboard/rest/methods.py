"""HTTP methods: 405 for a known path with another method, and an `Allow` header with all methods of the path."""

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send


class _MethodNotAllowed:
    """Handles the other methods of a literal path, which must not match a path with a parameter."""

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise HTTPException(405)


def prefer_literal_paths(app: FastAPI) -> None:
    """Match `/api/files/retry` before `/api/files/{id}` for every method: `GET /api/files/retry` is not a file."""
    routes = app.router.routes
    literal = [route for route in routes if isinstance(route, Route) and not route.param_convertors]
    others = [route for route in routes if route not in literal]
    paths = dict.fromkeys(route.path for route in literal)
    routes[:] = [*literal, *(Route(path, _MethodNotAllowed(), include_in_schema=False) for path in paths), *others]


def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """All methods of the path, sorted."""
    routes = [route for route in app.router.routes if isinstance(route, Route)]
    same = [route for route in routes if route.path == path] or [
        route for route in routes if route.path_regex.match(path)
    ]
    return sorted({method for route in same for method in route.methods or ()})
