"""Mode `oidc`: people sign in at OpenID Connect providers, programs send the providers' access tokens."""

from urllib.parse import parse_qsl, quote

import anyio
import structlog
from anyio import to_thread
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from filemill.domain.accounts import ATTEMPT_MAX
from filemill.domain.origins import Origin, parse_host, parse_origin
from filemill.errors import InvalidToken, Unavailable
from filemill.services.accounts import Sessions, TooManyTries
from filemill.services.federation import Federation, SignInRefused
from filemill_dashboard.asgi.authentication import (
    SIGN_IN,
    NoRole,
    cookie_name,
    cookie_of,
    identity_of_cookie,
    log_rejection,
    read_form,
    set_cookie,
    signed_in,
)
from filemill_dashboard.asgi.request_ids import address_of, source_of
from filemill_dashboard.asgi.sign_in_page import TOO_MANY, providers_page, refused_page, signed_out_page
from filemill_dashboard.rest.errors import error_response
from filemill_dashboard.state.identity import Identity

# The cookie that ties a sign-in to the browser in which it began.
ATTEMPT_SUFFIX = "-sign-in"
# Below `/sign-in/PROVIDER/`: where a provider reports that a user has signed out there.
BACK_CHANNEL = "back-channel-logout"
# Requests to providers at the same time, each of which may take seconds.
PROVIDER_REQUESTS = 8
PARAMETERS_MAX = 20

log = structlog.get_logger("authentication")


class OidcAuthenticator:
    """People have sessions, as with accounts. A bearer token is for REST only."""

    def __init__(self, federation: Federation, sessions: Sessions, public_url: str) -> None:
        self._federation = federation
        self._sessions = sessions
        self._public_url = public_url
        self._public = parse_origin(public_url)
        self._limiter = anyio.CapacityLimiter(PROVIDER_REQUESTS)

    async def identify(self, scope: Scope) -> Identity | None:
        """Who the request is from: a bearer token, else the session of a cookie. Raises NoRole, Unavailable."""
        headers = Headers(scope=scope)
        authorization = headers.getlist("authorization")
        if not authorization:
            return await identity_of_cookie(self._sessions, headers, scope)
        scheme, _, token = authorization[0].partition(" ")
        if len(authorization) > 1 or scheme.lower() != "bearer" or not scope["path"].startswith("/api"):
            return None
        try:
            found = await to_thread.run_sync(
                self._federation.bearer, token.strip(), source_of(scope), limiter=self._limiter
            )
        except InvalidToken as error:
            log.info("Refused a bearer token", reason=str(error), address=address_of(scope))
            return None
        except SignInRefused as refused:
            if refused.code == NoRole.code:
                raise NoRole(str(refused)) from None
            return None
        return None if found is None or found.role is None else Identity(found.name, found.role)

    async def sign_in(self, request: Request) -> Response:
        """The page with the providers, the way to one of them, or the way back."""
        name, _, rest = request.scope["path"].removeprefix(SIGN_IN).removeprefix("/").partition("/")
        allowed = "POST" if rest == BACK_CHANNEL else "GET"
        if request.method != allowed:
            response = error_response(405, "method_not_allowed", f"allowed: {allowed}")
            response.headers["Allow"] = allowed
            return response
        if rest == BACK_CHANNEL:
            return await self._back_channel_logout(request, name)
        if not name and not rest:
            return self._page("", 200)
        if rest not in {"", "callback"}:
            return self._page("There is no such page.", 404)
        try:
            return await (self._complete(request, name) if rest else self._begin(request, name))
        except TooManyTries:
            response = HTMLResponse(providers_page(self._federation.labels(), TOO_MANY), 429, {"Retry-After": "60"})
        except SignInRefused as refused:
            response = self._refused(refused)
        except InvalidToken as error:
            log.warning("Refused a sign-in", provider=name, reason=str(error), address=address_of(request.scope))
            response = self._page(
                f"The provider's answer was refused: {error}. Sign in again; if it happens again, tell an admin.", 401
            )
        except Unavailable as error:
            log.warning("A sign-in failed", provider=name, reason=str(error))
            response = self._page(f"You cannot sign in now. {error}.", 503)
        log_rejection(request.scope["path"], request.scope)
        if rest:
            set_cookie(response, request.scope, None, ATTEMPT_SUFFIX)
        return response

    async def sign_out(self, scope: Scope) -> Response:
        """End the session, and lead to the sign-out of the provider."""
        secret = cookie_of(Headers(scope=scope), cookie_name(scope))
        url = None
        if secret:
            back_to = f"{self._public_url}{SIGN_IN}"
            url = await to_thread.run_sync(self._federation.sign_out, secret, back_to, limiter=self._limiter)
        return HTMLResponse(signed_out_page(url, everywhere=False))

    async def _back_channel_logout(self, request: Request, name: str) -> Response:
        """The request of a provider, not of a browser: a user has signed out there."""
        token = (await read_form(request)).get("logout_token", "")
        try:
            await to_thread.run_sync(self._federation.back_channel_logout, name, token, limiter=self._limiter)
        except (InvalidToken, SignInRefused) as error:
            log_rejection(request.scope["path"], request.scope)
            response = error_response(400, "invalid_logout_token", str(error))
        except Unavailable as error:
            response = error_response(503, "unavailable", str(error))
        else:
            response = Response(status_code=200)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _begin(self, request: Request, name: str) -> Response:
        scope = request.scope
        if self._origin(scope) != self._public:
            # The provider leads back to the public URL, whose cookies are others.
            return RedirectResponse(f"{self._public_url}{SIGN_IN}/{quote(name, safe='')}", 303)
        began = await to_thread.run_sync(self._federation.begin, name, address_of(scope), limiter=self._limiter)
        response = RedirectResponse(began.url, 303)
        set_cookie(response, scope, began.secret, ATTEMPT_SUFFIX, int(ATTEMPT_MAX.total_seconds()))
        return response

    async def _complete(self, request: Request, name: str) -> Response:
        scope, headers = request.scope, request.headers
        secret = cookie_of(headers, cookie_name(scope, ATTEMPT_SUFFIX))
        former = cookie_of(headers, cookie_name(scope))
        arguments = (name, secret, _parameters(scope), source_of(scope), former)
        session = await to_thread.run_sync(lambda: self._federation.complete(*arguments), limiter=self._limiter)
        response = signed_in(scope, session)
        set_cookie(response, scope, None, ATTEMPT_SUFFIX)
        return response

    def _origin(self, scope: Scope) -> Origin | None:
        host = parse_host(Headers(scope=scope).get("host", ""))
        if host is None:
            return None
        name = f"[{host.host}]" if ":" in host.host else host.host
        return parse_origin(f"{scope['scheme']}://{name}" + (f":{host.port}" if host.port else ""))

    def _refused(self, refused: SignInRefused) -> Response:
        if refused.code in {"no_role", "account_disabled"}:
            return HTMLResponse(refused_page(str(refused)), 403)
        return self._page(str(refused), 404 if refused.code == "unknown_provider" else 400)

    def _page(self, problem: str, status: int) -> Response:
        return HTMLResponse(providers_page(self._federation.labels(), problem), status)


def _parameters(scope: Scope) -> dict[str, str]:
    """The parameters of the provider's answer; none of them if one is repeated."""
    try:
        pairs = parse_qsl(scope["query_string"].decode(), keep_blank_values=True, max_num_fields=PARAMETERS_MAX)
    except ValueError:
        return {}
    found = dict(pairs)
    return found if len(found) == len(pairs) else {}
