"""The authentication of the configured mode."""

from starlette.types import ASGIApp

from filemill_dashboard.asgi.authentication import Authentication, Authenticator
from filemill_dashboard.asgi.oidc import OidcAuthenticator
from filemill_dashboard.asgi.proxy_identity import ProxyAuthenticator
from filemill_dashboard.state.services import Services


def authentication(app: ASGIApp, services: Services) -> Authentication:
    """The authentication in front of an app."""
    settings = services.settings
    authenticator: Authenticator | None = None
    if settings.auth == "oidc":
        authenticator = OidcAuthenticator(services.federation, services.sessions, settings.public_url)
    elif settings.auth == "proxy":
        authenticator = ProxyAuthenticator(settings)
    return Authentication(app, settings, services.sessions, services.token_lookup, authenticator)
