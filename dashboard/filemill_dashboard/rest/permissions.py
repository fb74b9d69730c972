"""The permission of each endpoint of REST, and the middleware that asks for it.

Use cases ask again: an endpoint that changes something may need more than its own permission.
"""

import re

import sqlalchemy as sa
from starlette.types import ASGIApp, Receive, Scope, Send

from filemill.domain.permissions import ANONYMOUS, Permission, refusal
from filemill.errors import Forbidden
from filemill.services.access import authorize
from filemill_dashboard.rest.errors import error_response
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state.identity import PRINCIPAL

# None: nobody needs to sign in.
ENDPOINTS: dict[tuple[str, str], Permission | None] = {
    ("GET", "/healthz"): None,
    ("HEAD", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/assets/{name}"): None,
    ("GET", "/api"): Permission.VIEW,
    ("GET", "/api/"): Permission.VIEW,
    ("GET", "/api/me"): Permission.VIEW,
    ("GET", "/api/openapi.json"): Permission.VIEW,
    ("HEAD", "/api/openapi.json"): Permission.VIEW,
    ("GET", "/api/files"): Permission.VIEW,
    ("POST", "/api/files"): Permission.CREATE_FILES,
    ("GET", "/api/files/export"): Permission.VIEW,
    ("POST", "/api/files/retry"): Permission.RETRY_OWN_FILES,
    ("POST", "/api/files/cancel"): Permission.CANCEL_OWN_FILES,
    ("POST", "/api/files/delete"): Permission.DELETE_OWN_FILES,
    ("GET", "/api/files/{id}"): Permission.VIEW,
    ("DELETE", "/api/files/{id}"): Permission.DELETE_OWN_FILES,
    ("GET", "/api/files/{id}/download"): Permission.VIEW,
    ("POST", "/api/files/{id}/retry"): Permission.RETRY_OWN_FILES,
    ("POST", "/api/files/{id}/cancel"): Permission.CANCEL_OWN_FILES,
    ("GET", "/api/dead-letters"): Permission.READ_DEAD_LETTERS,
    ("POST", "/api/dead-letters/replay"): Permission.REPLAY_DEAD_LETTERS,
    ("GET", "/api/handlers"): Permission.VIEW,
    ("GET", "/api/handlers/{name}"): Permission.VIEW,
    ("GET", "/api/workers"): Permission.VIEW,
    ("DELETE", "/api/workers/{id}"): Permission.FORGET_WORKERS,
    ("POST", "/api/workers/{id}/quiet"): Permission.COMMAND_WORKERS,
    ("POST", "/api/workers/{id}/resume"): Permission.COMMAND_WORKERS,
    ("GET", "/api/pipeline"): Permission.VIEW,
    ("POST", "/api/offsets/reset"): Permission.PREVIEW_OFFSETS,
    ("GET", "/api/notebook"): Permission.GET_NOTEBOOKS,
    ("GET", "/api/audit"): Permission.READ_AUDIT,
    ("GET", "/api/audit/export"): Permission.READ_AUDIT,
}

_LITERAL = {key: permission for key, permission in ENDPOINTS.items() if "{" not in key[1]}
_PATTERNS = [
    (method, re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), permission)
    for (method, path), permission in ENDPOINTS.items()
    if "{" in path
]


def required(method: str, path: str) -> Permission | None:
    """The permission that a request needs; None for a public endpoint and for a path that does not exist."""
    key = (method, path)
    if key in _LITERAL:
        return _LITERAL[key]
    if any(path == literal for _, literal in _LITERAL):
        return None  # 405, or a path with a parameter that looks like a literal one: the app decides
    for own_method, pattern, permission in _PATTERNS:
        if own_method == method and pattern.fullmatch(path):
            return permission
    return None


class RestAuthorization:
    """Middleware: refuses a request whose principal does not have the permission of the endpoint."""

    def __init__(self, app: ASGIApp, engine: sa.Engine, threads: RequestThreads) -> None:
        self._app = app
        self._engine = engine
        self._threads = threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["path"].endswith("\n"):  # the app's patterns ignore a line feed at the end, the table does not
            await error_response(404, "not_found", "the path ends with a line feed")(scope, receive, send)
            return
        permission = required(scope["method"], scope["path"])
        principal = scope.get(PRINCIPAL, ANONYMOUS)
        if permission is None or refusal(principal, permission) is None:
            await self._app(scope, receive, send)
            return
        about = {"method": scope["method"], "path": scope["path"][:200]}
        try:
            await self._threads.run(lambda: authorize(self._engine, principal, permission, **about))
        except Forbidden as forbidden:
            await error_response(403, forbidden.code, str(forbidden))(scope, receive, send)
