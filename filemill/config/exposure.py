"""Whether the page may listen on an address: beyond this machine only with sign-in, and with credentials of its own."""

from filemill.config.oidc import is_secure_url
from filemill.config.settings import InvalidSettings, Settings
from filemill.domain.origins import is_loopback_name

# Of the reference design: everybody knows them.
PUBLISHED_PASSWORD = "filepass"  # noqa: S105
PUBLISHED_KEYS = ("test", "test")
# The shortest launch token: 128 bits in base64 are 22 characters.
LAUNCH_TOKEN_MIN_CHARACTERS = 22


class InsecureExposure(InvalidSettings):
    """The page would be open to people for whom it is not meant; the text says what to set."""


class IncompleteSignIn(InsecureExposure):
    """A setting of the mode of sign-in is missing; the text says which."""


def check_sign_in(host: str, auth: str, *, allow_insecure: bool) -> None:
    """Raises InsecureExposure if the page would listen beyond loopback without sign-in."""
    if auth == "local" and not allow_insecure and not is_loopback_name(host):
        raise InsecureExposure(
            f"the page would listen on {host} without sign-in, and everyone who reaches it would be admin. Use "
            "FILEMILL_AUTH=token, listen on 127.0.0.1, or set FILEMILL_ALLOW_INSECURE=1 if only trusted programs "
            "reach the port",
            "insecure_without_sign_in",
        )


def check_identity(settings: Settings) -> None:
    """What the modes oidc and proxy need. Raises IncompleteSignIn."""
    if settings.auth == "oidc":
        if not settings.oidc_providers:
            raise IncompleteSignIn(
                "FILEMILL_AUTH=oidc requires FILEMILL_OIDC_PROVIDERS: docs/security.md has an example",
                "oidc_providers_missing",
            )
        if not settings.public_url or not is_secure_url(settings.public_url):
            raise IncompleteSignIn(
                "FILEMILL_AUTH=oidc requires FILEMILL_PUBLIC_URL, the https:// URL of the page in browsers (http:// "
                "for a loopback address): the provider redirects there after the sign-in",
                "oidc_public_url_missing",
            )
    if settings.auth == "proxy":
        if not settings.trusted_proxies:
            raise IncompleteSignIn(
                "FILEMILL_AUTH=proxy requires FILEMILL_TRUSTED_PROXIES, the addresses of the proxies that say who "
                "somebody is: without them, every client could be anybody",
                "trusted_proxies_missing",
            )
        if not settings.proxy_user_header:
            raise IncompleteSignIn("FILEMILL_AUTH=proxy requires FILEMILL_PROXY_USER_HEADER", "proxy_header_missing")


def check_exposure(settings: Settings) -> None:
    """Check what a page that is about to listen needs. Raises InsecureExposure, IncompleteSignIn."""
    check_sign_in(settings.host, settings.auth, allow_insecure=settings.allow_insecure)
    check_identity(settings)
    if settings.auth == "token" and len(settings.launch_token.get_secret_value()) < LAUNCH_TOKEN_MIN_CHARACTERS:
        raise InsecureExposure(
            "FILEMILL_AUTH=token requires FILEMILL_LAUNCH_TOKEN or FILEMILL_LAUNCH_TOKEN_FILE with at least "
            f"{LAUNCH_TOKEN_MIN_CHARACTERS} random characters: openssl rand -hex 32",
            "launch_token_missing",
        )
    if settings.allow_insecure or is_loopback_name(settings.host):
        return
    keys = (settings.aws_access_key_id.get_secret_value(), settings.aws_secret_access_key.get_secret_value())
    published = [
        name
        for name, same in (
            ("FILEMILL_DATABASE_PASSWORD", settings.database_password.get_secret_value() == PUBLISHED_PASSWORD),
            ("FILEMILL_AWS_SECRET_ACCESS_KEY", keys == PUBLISHED_KEYS),
        )
        if same
    ]
    if published:
        raise InsecureExposure(
            f"the page would listen on {settings.host} with the published credentials of the reference design: change "
            f"{' and '.join(published)}, or set FILEMILL_ALLOW_INSECURE=1",
            "published_credentials",
        )
