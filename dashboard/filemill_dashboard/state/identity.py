"""A signed-in principal, as the authentication passes it to REST and to the pages."""

from functools import lru_cache

import msgspec

from filemill.domain.permissions import ANONYMOUS, Principal, RequestSource, Role

# The key of the principal in the scope of a request.
PRINCIPAL = "filemill.principal"
# The key of the id of a request in its scope.
REQUEST_ID = "filemill.request_id"
# The header of a page's WebSocket; only this process sets it.
IDENTITY_HEADER = "X-Filemill-Identity"
# Another header of a page's WebSocket that only this process sets. It is not part of the identity: after a reconnection
# Streamlit continues a page only for an equal one, and each WebSocket has its own request id.
SOURCE_HEADER = "X-Filemill-Source"
# The key of `st.user` that has the header's value.
USER_KEY = "filemill"


class Identity(msgspec.Struct, frozen=True):
    """A signed-in principal, as a page gets it.

    `expires_at` is in seconds since the epoch; None: never. `session` is the key of a stored session in hexadecimal,
    which a page looks up at each run; it signs nobody in. `token` is the id of a personal token.
    """

    name: str
    role: Role
    expires_at: float | None = None
    session: str | None = None
    token: int | None = None

    def encoded(self) -> str:
        """The value of the header."""
        return msgspec.json.encode(self).decode()

    def principal(self, now: float) -> Principal:
        """The principal, or nobody after the end of the session."""
        return Principal(self.name, self.role) if self.expires_at is None or now < self.expires_at else ANONYMOUS


@lru_cache(maxsize=1024)
def decode_identity(header: str) -> Identity:
    """The identity in a header that this process has set."""
    return msgspec.json.decode(header, type=Identity)


# Digits of the stored key of a session that the audit log has: enough to tell sessions apart.
_SESSION_DIGITS = 12
# How people of the modes without stored sessions, and programs, have signed in.
_AUTHENTICATIONS = {"token": "launch token", "oidc": "access token", "proxy": "proxy"}


def authentication_of(identity: Identity, mode: str) -> str:
    """How a principal has signed in, for the audit log. Empty for a personal token, which has its own record."""
    if identity.session is not None:
        return f"session:{identity.session[:_SESSION_DIGITS]}"
    return "" if identity.token is not None else _AUTHENTICATIONS.get(mode, "")


def encode_source(source: RequestSource) -> str:
    """The value of the header with where a page is opened from."""
    return msgspec.json.encode(source).decode()


@lru_cache(maxsize=1024)
def decode_source(header: str) -> RequestSource:
    """Where a page is opened from, from a header that this process has set."""
    return msgspec.json.decode(header, type=RequestSource)
