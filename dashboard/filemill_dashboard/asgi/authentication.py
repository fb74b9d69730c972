"""Authentication: who a request is from. In front of REST, pages and WebSockets; behind the request filter.

It removes inbound `X-Filemill-…` headers, so that only this process says who somebody is. REST finds the principal in
the scope. Pages find it in a header of their WebSocket, which Streamlit passes on as `st.user`.
"""

import hashlib
import hmac
import secrets
import time
from functools import lru_cache
from typing import Protocol
from urllib.parse import parse_qs

import structlog
from itsdangerous import BadSignature, TimestampSigner
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from filemill.config.logging import LogRateLimit
from filemill.config.settings import Settings
from filemill.domain.origins import DEFAULT_PORTS, parse_host
from filemill.domain.permissions import NOBODY, Principal, Role, local_admin
from filemill_dashboard.asgi.sign_in_page import sign_in_page
from filemill_dashboard.rest.errors import error_response
from filemill_dashboard.state.identity import IDENTITY_HEADER, PRINCIPAL, Identity

OWN_HEADERS = b"x-filemill-"
SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
# For these nobody needs to sign in. The first two give no addresses then.
PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})
PUBLIC_PREFIXES = ("/assets/", "/static/", "/app/static/")
SESSION_SECONDS = 7 * 86_400
FORM_MAX_BYTES = 4096
# Cookies of the future are refused; clocks of two dashboards may differ by this.
CLOCK_SKEW_SECONDS = 120
REJECTIONS_PER_MINUTE = 30

log = structlog.get_logger("authentication")
_rejections = LogRateLimit(REJECTIONS_PER_MINUTE, 60.0)


class Authenticator(Protocol):
    """A mode of sign-in."""

    def identify(self, scope: Scope) -> Identity | None:
        """Who the request is from; None: nobody has signed in."""

    async def sign_in(self, request: Request) -> Response | None:
        """The response to a sign-in with its cookie; None: the secret is wrong or missing."""


class TokenAuthenticator:
    """Mode `token`: whoever knows the launch token is admin. A browser exchanges it for a session cookie.

    The cookie is a signed time, so the page works without PostgreSQL. A new launch token ends all sessions.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._signer = TimestampSigner(token, salt="filemill session", digest_method=hashlib.sha256)
        self._issued_at = lru_cache(maxsize=1024)(self._read_cookie)

    def identify(self, scope: Scope) -> Identity | None:
        """Who the request is from: a bearer token, else a cookie."""
        headers = Headers(scope=scope)
        name = f"token:{address_of(scope)}"
        authorization = headers.getlist("authorization")
        if authorization:
            scheme, _, given = authorization[0].partition(" ")
            known = len(authorization) == 1 and scheme.lower() == "bearer" and self._is_token(given.strip())
            return Identity(name, Role.ADMIN) if known else None
        issued = self._issued_at(cookie_of(headers, cookie_name(scope)))
        if issued is None or not -CLOCK_SKEW_SECONDS <= time.time() - issued < SESSION_SECONDS:
            return None
        return Identity(name, Role.ADMIN, issued + SESSION_SECONDS)

    async def sign_in(self, request: Request) -> Response | None:
        """Exchange the token of the URL that `filemill up` prints, or of the form, for a cookie."""
        given = request.query_params.get("token", "") if request.method == "GET" else await form_value(request, "token")
        if not self._is_token(given):
            return None
        cookie = self._signer.sign(secrets.token_hex(8)).decode()
        response = RedirectResponse("/", 303)
        set_cookie(response, request.scope, cookie)
        return response

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token)

    def _read_cookie(self, cookie: str) -> float | None:
        try:
            _, issued = self._signer.unsign(cookie, return_timestamp=True)
        except BadSignature:
            return None
        return issued.timestamp()


class Authentication:
    """Middleware: puts the principal into the scope. Without sign-in, only public paths are served."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._authenticator: Authenticator | None = (
            TokenAuthenticator(settings.launch_token.get_secret_value()) if settings.auth == "token" else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request or WebSocket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        if any(name.startswith(OWN_HEADERS) for name, _ in headers):
            scope["headers"] = [header for header in headers if not header[0].startswith(OWN_HEADERS)]
        if self._authenticator is None:
            scope[PRINCIPAL] = local_admin(f"rest:{address_of(scope)}")
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path in {SIGN_IN, SIGN_OUT} and scope["type"] == "http":
            await (await self._sign(self._authenticator, Request(scope, receive)))(scope, receive, send)
            return
        identity = self._authenticator.identify(scope)
        if identity is None:
            scope[PRINCIPAL] = NOBODY
            if path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES):
                await self._app(scope, receive, send)
            else:
                await _refuse(scope, receive, send)
            return
        scope[PRINCIPAL] = Principal(identity.name, identity.role)
        if not path.startswith("/api"):
            encoded = identity.encoded().encode()
            scope["headers"] = [*scope["headers"], (IDENTITY_HEADER.lower().encode(), encoded)]
        await self._app(scope, receive, send)

    async def _sign(self, authenticator: Authenticator, request: Request) -> Response:
        path, method = request.scope["path"], request.method
        if path == SIGN_OUT:
            if method != "POST":
                return _not_allowed("POST")
            response = RedirectResponse(SIGN_IN, 303)
            set_cookie(response, request.scope, None)
            return response
        if method not in {"GET", "POST"}:
            return _not_allowed("GET, POST")
        try:
            signed_in = await authenticator.sign_in(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if signed_in is not None:
            log.info("Signed in", address=address_of(request.scope))
            return signed_in
        tried = method == "POST" or bool(request.query_params)
        if tried:
            _log_rejection("sign-in", request.scope)
        return HTMLResponse(sign_in_page(wrong=tried), 401 if tried else 200)


def address_of(scope: Scope) -> str:
    """The client's address, as the request filter determined it."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def cookie_name(scope: Scope) -> str:
    """The name of the session cookie. Cookies of one host are shared by all its ports, so the name has the port."""
    if scope["scheme"] in {"https", "wss"}:
        return "__Host-filemill"
    host = parse_host(Headers(scope=scope).get("host", ""))
    port = host.port if host is not None and host.port else DEFAULT_PORTS["http"]
    return f"filemill-{port}"


def cookie_of(headers: Headers, name: str) -> str:
    """The value of a cookie; empty if it is missing."""
    return cookie_parser("; ".join(headers.getlist("cookie"))).get(name, "")


def set_cookie(response: Response, scope: Scope, value: str | None) -> None:
    """Set the session cookie; None deletes it."""
    secure = scope["scheme"] in {"https", "wss"}
    age = 0 if value is None else SESSION_SECONDS
    response.set_cookie(
        cookie_name(scope), value or "", max_age=age, path="/", secure=secure, httponly=True, samesite="lax"
    )


async def form_value(request: Request, name: str) -> str:
    """A field of a submitted form; empty if it is missing or the form is too large. Raises ClientDisconnect."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_MAX_BYTES:
            return ""
    try:
        return parse_qs(body.decode(), max_num_fields=10).get(name, [""])[0]
    except ValueError:
        return ""


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    _log_rejection(scope["path"], scope)
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
    elif scope["method"] == "GET" and b"text/html" in Headers(scope=scope).get("accept", "").encode():
        await RedirectResponse(SIGN_IN, 303)(scope, receive, send)
        return
    response = error_response(401, "not_signed_in", "sign in, or send an Authorization header with a bearer token")
    response.headers["WWW-Authenticate"] = "Bearer"
    await response(scope, receive, send)


def _not_allowed(methods: str) -> Response:
    response = error_response(405, "method_not_allowed", f"allowed: {methods}")
    response.headers["Allow"] = methods
    return response


def _log_rejection(what: str, scope: Scope) -> None:
    left_out = _rejections.admit()
    if left_out is not None:
        log.warning(
            "Refused a request without a valid sign-in", path=what, address=address_of(scope), left_out=left_out
        )
