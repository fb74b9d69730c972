"""Error responses of the REST API. All have one shape, name the wrong field, and contain no stack trace.

{"error": {"code": "invalid", "message": "title: must not be blank", "field": "title"}}
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from filemill.domain.cursors import InvalidCursor
from filemill.domain.idempotency import HEADER, KeyReused
from filemill.domain.limits import LimitExceeded
from filemill.domain.origins import redact_passwords
from filemill.errors import Forbidden, InvalidRequest, Unavailable
from filemill.services.operations import UnknownWorker
from filemill_dashboard.rest.methods import allowed_methods
from filemill_dashboard.state.identity import REQUEST_ID

RETRY_AFTER_SECONDS = 2

log = structlog.get_logger("rest")


class ErrorDetail(msgspec.Struct, frozen=True):
    """`code` is for programs, `message` for people. `field` is the wrong part of the request, if there is one."""

    code: str
    message: str
    field: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every response with a status of 400 or above."""

    error: ErrorDetail


class ApiError(Exception):
    """Ends a request with `status` and an error body of `code`, `message` and `field`."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(code, message, field)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:  # noqa: ANN401
    """A response with any value that msgspec can encode."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def error_response(status: int, code: str, message: str, field: str | None = None) -> Response:
    """A response with an error body; with a Retry-After header if the status is 503."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    return json_response(ErrorBody(ErrorDetail(code, redact_passwords(message), field)), status, headers)


_CODES = {404: "not_found", 405: "method_not_allowed"}


async def _on_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error.status, error.detail.code, error.detail.message, error.detail.field)


async def _on_invalid_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequest)
    return error_response(422, "invalid", str(error), error.field)


async def _on_key_reused(_request: Request, error: Exception) -> Response:
    return error_response(409, "idempotency_key_reused", str(error), HEADER)


async def _on_invalid_cursor(_request: Request, error: Exception) -> Response:
    return error_response(422, "invalid", f"cursor: {error}", "cursor")


async def _on_invalid_parameter(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = str(first["loc"][-1])
    return error_response(422, "invalid", f"{field}: {first['msg']}", field)


async def _on_unavailable(_request: Request, error: Exception) -> Response:
    return error_response(503, "unavailable", str(error))


async def _on_forbidden(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Forbidden)
    return error_response(403, error.code, str(error))


async def _on_unknown_worker(_request: Request, error: Exception) -> Response:
    return error_response(404, "not_found", str(error), "id")


async def _on_limit_exceeded(_request: Request, error: Exception) -> Response:
    assert isinstance(error, LimitExceeded)
    return limit_response(error)


def limit_response(error: LimitExceeded) -> Response:
    """The response above a limit, with the fields of draft-ietf-httpapi-ratelimit-headers."""
    policy = error.policy
    window = "" if policy.window is None else f";w={policy.window}"
    response = error_response(429, error.code, str(error))
    response.headers["Retry-After"] = str(error.retry_after)
    response.headers["RateLimit-Policy"] = f'"{policy.name}";q={policy.quota};qu="{policy.unit}"{window}'
    response.headers["RateLimit"] = f'"{policy.name}";r={error.remaining};t={error.retry_after}'
    return response


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    messages = {404: f"there is nothing at {path}", 405: f"{request.method} is not allowed at {path}"}
    code = _CODES.get(error.status_code, "refused")
    response = error_response(error.status_code, code, messages.get(error.status_code, str(error.detail)))
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(allowed_methods(request.app, path))
    return response


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    ApiError: _on_api_error,
    InvalidRequest: _on_invalid_request,
    KeyReused: _on_key_reused,
    InvalidCursor: _on_invalid_cursor,
    RequestValidationError: _on_invalid_parameter,
    Unavailable: _on_unavailable,
    Forbidden: _on_forbidden,
    UnknownWorker: _on_unknown_worker,
    LimitExceeded: _on_limit_exceeded,
    HTTPException: _on_http_error,
}


def add_handlers(app: FastAPI) -> None:
    """Add a handler for each of these exceptions, so that all responses have one shape."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


class InternalErrorMiddleware:
    """Middleware: logs any other exception and responds with 500, without its trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            return  # no client is left to respond to
        except Exception:
            if not started:
                about = {"method": scope.get("method"), "path": scope.get("path"), "request_id": scope.get(REQUEST_ID)}
                log.exception("Request failed", **about)
                response = error_response(500, "internal", "internal error: see the dashboard's log")
                await response(scope, receive, send)
                return
            raise
