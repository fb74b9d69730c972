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
from urllib.parse import parse_qsl

import anyio
import msgspec
import structlog
from anyio import to_thread
from itsdangerous import BadSignature, TimestampSigner
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from filemill.config.logging import LogRateLimit
from filemill.config.settings import Settings
from filemill.domain.origins import DEFAULT_PORTS, parse_host
from filemill.domain.permissions import ANONYMOUS, LOCAL, Principal, Role
from filemill.domain.tokens import contains_token, is_token, token_key
from filemill.errors import Unavailable
from filemill.services.accounts import Sessions, TooManyTries, session_key
from filemill.services.tokens import TokenLookup
from filemill_dashboard.asgi.request_ids import address_of, source_of
from filemill_dashboard.asgi.sign_in_page import (
    TOO_MANY,
    WRONG_PASSWORD,
    WRONG_TOKEN,
    refused_page,
    sign_in_page,
    sign_out_page,
)
from filemill_dashboard.rest.errors import error_response
from filemill_dashboard.state.identity import (
    IDENTITY_HEADER,
    PRINCIPAL,
    REQUEST_ID,
    SOURCE_HEADER,
    Identity,
    authentication_of,
    encode_source,
)

OWN_HEADERS = b"x-filemill-"
SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
# For these nobody needs to sign in. The first two give no addresses then.
PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})
PUBLIC_PREFIXES = ("/assets/", "/static/", "/app/static/")
SESSION_SECONDS = 7 * 86_400
FORM_MAX_BYTES = 4096
# Passwords that are checked at the same time.
PASSWORD_CHECKS = 2
# Cookies of the future are refused; clocks of two dashboards may differ by this.
CLOCK_SKEW_SECONDS = 120
REJECTIONS_PER_MINUTE = 30
IN_URL = (
    "the URL contains a personal token: send it in an Authorization header; revoke this one, because URLs are logged"
)

log = structlog.get_logger("authentication")
_rejections = LogRateLimit(REJECTIONS_PER_MINUTE, 60.0)


class NoRole(Exception):
    """Somebody has signed in, but may do nothing. The text says why and what to do."""

    code = "no_role"


class Authenticator(Protocol):
    """A mode of sign-in."""

    async def identify(self, scope: Scope) -> Identity | None:
        """Who the request is from; None: nobody has signed in. Raises NoRole, TooManyTries, Unavailable."""

    async def sign_in(self, request: Request) -> Response:
        """The response to a GET or POST of the sign-in page. Raises ClientDisconnect, Unavailable."""

    async def sign_out(self, scope: Scope) -> Response | None:
        """End the session of the request, if it has one. Raises Unavailable.

        Returns the response; None: back to the sign-in page.
        """


class TokenAuthenticator:
    """Mode `token`: whoever knows the launch token is admin. A browser exchanges it for a session cookie.

    The cookie is a signed time, so the page works without PostgreSQL. A new launch token ends all sessions.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._signer = TimestampSigner(token, salt="filemill session", digest_method=hashlib.sha256)
        self._issued_at = lru_cache(maxsize=1024)(self._read_cookie)

    async def identify(self, scope: Scope) -> Identity | None:
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

    async def sign_in(self, request: Request) -> Response:
        """Exchange the token of the URL that `filemill up` prints, or of the form, for a cookie."""
        posted = request.method == "POST"
        given = (await read_form(request)).get("token", "") if posted else request.query_params.get("token", "")
        if not self._is_token(given):
            tried = posted or bool(request.query_params)
            if tried:
                log_rejection(SIGN_IN, request.scope)
            return HTMLResponse(sign_in_page("token", WRONG_TOKEN if tried else ""), 401 if tried else 200)
        log.info("Signed in", address=address_of(request.scope))
        cookie = self._signer.sign(secrets.token_hex(8)).decode()
        return signed_in(request.scope, cookie)

    async def sign_out(self, scope: Scope) -> None:
        """Do nothing: nothing is stored, and the cookie is deleted."""

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token)

    def _read_cookie(self, cookie: str) -> float | None:
        try:
            _, issued = self._signer.unsign(cookie, return_timestamp=True)
        except BadSignature:
            return None
        return issued.timestamp()


class AccountAuthenticator:
    """Mode `accounts`: people sign in with a name and a password, programs send a personal token to REST.

    Sessions and tokens are rows, and can be revoked.
    """

    def __init__(self, sessions: Sessions, tokens: TokenLookup) -> None:
        self._sessions = sessions
        self._tokens = tokens
        # Each check of a password takes 64 MiB and tens of milliseconds of a core.
        self._limiter = anyio.CapacityLimiter(PASSWORD_CHECKS)

    async def identify(self, scope: Scope) -> Identity | None:
        """Whose token it is, or without one whose session the cookie names. Raises TooManyTries."""
        headers = Headers(scope=scope)
        authorization = headers.getlist("authorization")
        if authorization:
            return await self._owner_of_token(authorization, scope)
        return await identity_of_cookie(self._sessions, headers, scope)

    async def _owner_of_token(self, authorization: list[str], scope: Scope) -> Identity | None:
        """Whose token it is. Tokens are for REST: a page could not notice that one was revoked."""
        scheme, _, given = authorization[0].partition(" ")
        token, address = given.strip(), address_of(scope)
        if len(authorization) > 1 or scheme.lower() != "bearer" or not is_token(token) or not _takes_tokens(scope):
            return None
        key = token_key(token)
        found = self._tokens.cached(key, address) or await to_thread.run_sync(self._tokens.find, key, address)
        return None if found is None or found.role is None else Identity(found.name, found.role, token=found.token)

    async def sign_in(self, request: Request) -> Response:
        """Check a name and a password, and start a session. The former session of the browser ends."""
        if request.method == "GET":
            return HTMLResponse(sign_in_page("accounts", ""))
        form, scope = await read_form(request), request.scope
        former = cookie_of(request.headers, cookie_name(scope))
        given = (form.get("name", ""), form.get("password", ""), address_of(scope), former)
        try:
            secret = await to_thread.run_sync(lambda: self._sessions.sign_in(*given), limiter=self._limiter)
        except TooManyTries:
            log_rejection(SIGN_IN, scope)
            return HTMLResponse(sign_in_page("accounts", TOO_MANY), 429, {"Retry-After": "60"})
        if secret is None:
            log_rejection(SIGN_IN, scope)
            return HTMLResponse(sign_in_page("accounts", WRONG_PASSWORD), 401)
        return signed_in(scope, secret)

    async def sign_out(self, scope: Scope) -> None:
        """Delete the session of the cookie."""
        secret = cookie_of(Headers(scope=scope), cookie_name(scope))
        if secret:
            await to_thread.run_sync(self._sessions.sign_out, secret)


async def identity_of_cookie(sessions: Sessions, headers: Headers, scope: Scope) -> Identity | None:
    """Whose session the cookie names. Raises Unavailable."""
    secret = cookie_of(headers, cookie_name(scope))
    if not secret:
        return None
    key = session_key(secret)
    found = sessions.cached(key) or await to_thread.run_sync(sessions.find, key)
    return None if found is None or found.role is None else Identity(found.name, found.role, session=key.hex())


class Authentication:
    """Middleware: puts the principal into the scope. Without sign-in, only public paths are served."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        sessions: Sessions,
        tokens: TokenLookup,
        authenticator: Authenticator | None = None,
    ) -> None:
        """`authenticator`: that of a mode that is not one of this module."""
        self._app = app
        self._mode = settings.auth
        self._authenticator = authenticator
        if settings.auth == "token":
            self._authenticator = TokenAuthenticator(settings.launch_token.get_secret_value())
        elif settings.auth == "accounts":
            self._authenticator = AccountAuthenticator(sessions, tokens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request or WebSocket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        if any(name.startswith(OWN_HEADERS) for name, _ in headers):
            scope["headers"] = [header for header in headers if not header[0].startswith(OWN_HEADERS)]
        if scope["type"] == "websocket":
            header = (SOURCE_HEADER.lower().encode(), encode_source(source_of(scope)).encode())
            scope["headers"] = [*scope["headers"], header]
        if self._authenticator is None:
            source = source_of(scope, LOCAL.authentication)
            scope[PRINCIPAL] = Principal(f"rest:{source.address}", Role.ADMIN, source=source)
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        identity = await self._identify(self._authenticator, scope, receive)
        if isinstance(identity, Response):
            await send_error(identity, scope, receive, send)
            return
        if identity is None:
            scope[PRINCIPAL] = msgspec.structs.replace(ANONYMOUS, source=source_of(scope))
            if path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES):
                await self._app(scope, receive, send)
            else:
                await _refuse(scope, receive, send)
            return
        source = source_of(scope, authentication_of(identity, self._mode))
        scope[PRINCIPAL] = Principal(identity.name, identity.role, identity.token, source)
        if not path.startswith("/api"):
            encoded = identity.encoded().encode()
            scope["headers"] = [*scope["headers"], (IDENTITY_HEADER.lower().encode(), encoded)]
        await self._app(scope, receive, send)

    async def _identify(
        self, authenticator: Authenticator, scope: Scope, receive: Receive
    ) -> Identity | Response | None:
        """Who the request is from, None for nobody, or a response that is all that it gets."""
        path = scope["path"]
        is_public = path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)
        if contains_token(path, scope.get("query_string", b"")):
            return error_response(400, "token_in_url", IN_URL)
        try:
            if (path in {SIGN_IN, SIGN_OUT} or path.startswith(f"{SIGN_IN}/")) and scope["type"] == "http":
                return await self._sign(authenticator, Request(scope, receive))
            return await authenticator.identify(scope)
        except NoRole as refused:
            return None if is_public else _without_role(refused, scope)
        except TooManyTries as error:
            log_rejection(path, scope)
            return None if path in PUBLIC_PATHS else _too_many_tries(error)
        except Unavailable as error:
            return None if path in PUBLIC_PATHS else error_response(503, "unavailable", str(error))

    async def _sign(self, authenticator: Authenticator, request: Request) -> Response:
        path, method = request.scope["path"], request.method
        if path == SIGN_OUT:
            if method == "GET":
                return HTMLResponse(sign_out_page())
            if method != "POST":
                return _not_allowed("GET, POST")
            response = await authenticator.sign_out(request.scope) or RedirectResponse(SIGN_IN, 303)
            set_cookie(response, request.scope, None)
            return response
        if method not in {"GET", "POST"}:
            return _not_allowed("GET, POST")
        try:
            return await authenticator.sign_in(request)
        except ClientDisconnect:
            return Response(status_code=400)


def _too_many_tries(error: TooManyTries) -> Response:
    response = error_response(429, "too_many_tries", str(error))
    response.headers["Retry-After"] = "60"
    return response


def cookie_name(scope: Scope, suffix: str = "") -> str:
    """The name of the session cookie. Cookies of one host are shared by all its ports, so the name has the port.

    With a suffix: of another cookie.
    """
    if scope["scheme"] in {"https", "wss"}:
        return f"__Host-filemill{suffix}"
    host = parse_host(Headers(scope=scope).get("host", ""))
    port = host.port if host is not None and host.port else DEFAULT_PORTS["http"]
    return f"filemill-{port}{suffix}"


def cookie_of(headers: Headers, name: str) -> str:
    """The value of a cookie; empty if it is missing."""
    return cookie_parser("; ".join(headers.getlist("cookie"))).get(name, "")


def set_cookie(
    response: Response, scope: Scope, value: str | None, suffix: str = "", seconds: int = SESSION_SECONDS
) -> None:
    """Set the session cookie, or another one with a suffix; None deletes it."""
    secure = scope["scheme"] in {"https", "wss"}
    age = 0 if value is None else seconds
    response.set_cookie(
        cookie_name(scope, suffix), value or "", max_age=age, path="/", secure=secure, httponly=True, samesite="lax"
    )


def signed_in(scope: Scope, cookie: str) -> Response:
    """The response to a successful sign-in. It leads to the first page and nowhere else."""
    response = RedirectResponse("/", 303)
    set_cookie(response, scope, cookie)
    return response


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a submitted form; empty if it is too large or not a form. Raises ClientDisconnect."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_MAX_BYTES:
            return {}
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=10))
    except ValueError:
        return {}


def _takes_tokens(scope: Scope) -> bool:
    """Whether a request is for REST."""
    path = scope["path"]
    return scope["type"] == "http" and (path == "/api" or path.startswith("/api/") or path in PUBLIC_PATHS)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    log_rejection(scope["path"], scope)
    if _wants_page(scope):
        await RedirectResponse(SIGN_IN, 303)(scope, receive, send)
        return
    if "authorization" in Headers(scope=scope):
        reason = "the bearer token is unknown, expired, revoked, or not valid here or from this address"
        response = error_response(401, "invalid_token", reason)
        response.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    else:
        response = error_response(401, "not_signed_in", "sign in, or send an Authorization header with a bearer token")
        response.headers["WWW-Authenticate"] = "Bearer"
    await send_error(response, scope, receive, send)


def _without_role(refused: NoRole, scope: Scope) -> Response:
    log_rejection(scope["path"], scope)
    if _wants_page(scope):
        return HTMLResponse(refused_page(str(refused)), 403)
    return error_response(403, refused.code, str(refused))


def _wants_page(scope: Scope) -> bool:
    return (
        scope["type"] == "http" and scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
    )


async def send_error(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response, also to the handshake of a WebSocket; if the server cannot do that, the WebSocket is closed."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    await response(scope, receive, send)


def _not_allowed(methods: str) -> Response:
    response = error_response(405, "method_not_allowed", f"allowed: {methods}")
    response.headers["Allow"] = methods
    return response


def log_rejection(what: str, scope: Scope) -> None:
    """Log a refused request or sign-in; the log is limited."""
    left_out = _rejections.admit()
    if left_out is not None:
        log.warning(
            "Refused a request without a valid sign-in",
            path=what,
            address=address_of(scope),
            request_id=scope.get(REQUEST_ID, ""),
            left_out=left_out,
        )
