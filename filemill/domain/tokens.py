"""The rules of personal tokens: their form, labels, expiry and address ranges, and which role they have."""

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import unquote_plus

from filemill.domain.permissions import Role
from filemill.errors import InvalidRequest

TOKEN_PREFIX = "fm_"  # noqa: S105 - not a secret
_SECRET_BYTES = 32
TOKEN_PATTERN = re.compile(r"fm_[A-Za-z0-9_-]{43}")
LABEL_MAX_CHARACTERS = 64
TOKENS_PER_ACCOUNT = 50
NETWORKS_MAX = 16
EXPIRY_MIN = timedelta(minutes=1)
EXPIRY_MAX = timedelta(days=3650)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"([0-9]{1,6})([mhd])")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def new_token() -> str:
    """A new token. It has 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def is_token(text: str) -> bool:
    """Whether a text has the form of a token."""
    return TOKEN_PATTERN.fullmatch(text) is not None


def token_key(token: str) -> bytes:
    """The key under which a token is stored. The token has 256 random bits, so it needs no salt."""
    return hashlib.sha256(token.encode()).digest()


def contains_token(path: str, query: bytes) -> bool:
    """Whether a URL contains a token. URLs are in histories and logs, so such a token is no longer secret."""
    return any(
        TOKEN_PREFIX in text and TOKEN_PATTERN.search(text) is not None
        for text in (path, unquote_plus(query.decode("latin-1")))
    )


def check_label(text: str) -> str:
    """The label of a token. Raises InvalidRequest."""
    label = text.strip()
    if not label or len(label) > LABEL_MAX_CHARACTERS or not label.isprintable():
        raise InvalidRequest("label", f"must be 1 to {LABEL_MAX_CHARACTERS} printable characters")
    return label


def check_expiry(expiry: timedelta | None) -> timedelta | None:
    """How long a token is valid; None: until it is revoked. Raises InvalidRequest."""
    if expiry is not None and not EXPIRY_MIN <= expiry <= EXPIRY_MAX:
        raise InvalidRequest("expires", "must be from one minute to ten years")
    return expiry


def parse_expiry(text: str) -> timedelta | None:
    """A duration such as 30d, 12h or 15m; "never" is None. Raises InvalidRequest."""
    if text == "never":
        return None
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidRequest("expires", "must be a number with m, h or d, such as 30d, or never")
    return check_expiry(timedelta(**{_UNITS[match[2]]: int(match[1])}))


def check_networks(networks: Sequence[str]) -> list[str]:
    """The addresses from which a token is valid, in their usual form; empty: from all. Raises InvalidRequest."""
    if len(networks) > NETWORKS_MAX:
        raise InvalidRequest("addresses", f"must be at most {NETWORKS_MAX} addresses or networks")
    found = []
    for text in networks:
        try:
            found.append(str(ipaddress.ip_network(text.strip())))
        except ValueError:
            shown = text.strip()[:64]
            raise InvalidRequest("addresses", f"{shown!r} is no address or network such as 10.0.0.0/8") from None
    return found


def parse_networks(networks: Sequence[str]) -> tuple[Network, ...]:
    """Stored networks."""
    return tuple(ipaddress.ip_network(text) for text in networks)


def is_allowed_from(networks: Sequence[Network], address: str) -> bool:
    """Whether a token of these networks is valid for a client's address."""
    if not networks:
        return True
    try:
        client = ipaddress.ip_address(address)
    except ValueError:
        return False
    # A listener for both families has IPv4 clients as ::ffff:192.0.2.1.
    if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped is not None:
        client = client.ipv4_mapped
    return any(client in network for network in networks)


def effective_role(of_token: Role, of_owner: Role) -> Role:
    """The role of a token: its own, but at most the one that its owner has now."""
    return min(of_token, of_owner, key=lambda role: role.rank)
