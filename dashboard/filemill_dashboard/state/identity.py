"""A signed-in principal, as the authentication passes it to REST and to the pages."""

from functools import lru_cache

import msgspec

from filemill.domain.permissions import NOBODY, Principal, Role

# The key of the principal in the scope of a request.
PRINCIPAL = "filemill.principal"
# The header of a page's WebSocket; only this process sets it.
IDENTITY_HEADER = "X-Filemill-Identity"
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
        return Principal(self.name, self.role) if self.expires_at is None or now < self.expires_at else NOBODY


@lru_cache(maxsize=1024)
def decode_identity(header: str) -> Identity:
    """The identity in a header that this process has set."""
    return msgspec.json.decode(header, type=Identity)
