"""Mode `proxy`: a trusted reverse proxy, such as oauth2-proxy, says in headers who somebody is."""

import time

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from filemill.config.settings import Settings
from filemill.domain.accounts import PROXY_PREFIX
from filemill.domain.federation import highest_role
from filemill_dashboard.asgi.authentication import NoRole, log_rejection
from filemill_dashboard.asgi.proxies import PEER, TrustedProxies
from filemill_dashboard.asgi.sign_in_page import proxy_page, signed_out_page
from filemill_dashboard.state.identity import Identity

NAME_MAX_CHARACTERS = 100
# A page keeps the identity with which its WebSocket was opened until the end of the next period. All WebSockets of a
# period have the same end, because Streamlit continues a page only for the same identity.
PERIOD_SECONDS = 12 * 3600


class ProxyAuthenticator:
    """The headers count only if the connection comes from a trusted proxy."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._proxies = TrustedProxies(settings.trusted_proxy_networks)

    async def identify(self, scope: Scope) -> Identity | None:
        """Who the request is from; None also if the headers are unusable. Raises NoRole."""
        headers, settings = Headers(scope=scope), self._settings
        names = [settings.proxy_user_header, settings.proxy_email_header, settings.proxy_groups_header]
        user, email, groups = (_single(headers, name) if name else "" for name in names)
        own = {name.lower().encode() for name in names if name}
        scope["headers"] = [header for header in scope["headers"] if header[0] not in own]
        if scope.get(PEER, "") not in self._proxies or not user or email is None or groups is None:
            return None
        if not all(text.isprintable() and len(text) <= NAME_MAX_CHARACTERS for text in (user, email)):
            return None
        values = [group.strip() for group in groups.split(",")]
        role = highest_role(values, settings.proxy_roles, settings.proxy_default_role)
        if role is None:
            raise NoRole(
                f"{user} is signed in, but has no role in filemill. An admin gives one of your groups a role in "
                "FILEMILL_PROXY_ROLES."
            )
        name = f"{PROXY_PREFIX}{user}" if email in {"", user} else f"{PROXY_PREFIX}{user} ({email})"
        end = (time.time() // PERIOD_SECONDS + 2) * PERIOD_SECONDS
        return Identity(name, role, expires_at=end)

    async def sign_in(self, request: Request) -> Response:
        """The page for a browser that did not come through the proxy, or that the proxy did not sign in."""
        if request.scope["path"] == "/sign-in" and await self._has_identity(request.scope):
            return RedirectResponse("/", 303)
        log_rejection(request.scope["path"], request.scope)
        return HTMLResponse(proxy_page(self._settings.public_url), 401)

    async def sign_out(self, scope: Scope) -> Response:  # noqa: ARG002 - the proxy has the session
        """Lead to the sign-out of the proxy."""
        return HTMLResponse(signed_out_page(self._settings.proxy_sign_out_url or None, everywhere=False))

    async def _has_identity(self, scope: Scope) -> bool:
        try:
            return await self.identify(scope) is not None
        except NoRole:
            return False


def _single(headers: Headers, name: str) -> str | None:
    """The value of a header; empty if it is missing, None if it is repeated or is not UTF-8."""
    values = headers.getlist(name)
    if len(values) > 1:
        return None
    try:
        return values[0].encode("latin-1").decode().strip() if values else ""
    except UnicodeDecodeError:
        return None
