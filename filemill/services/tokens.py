"""Personal tokens: people create them for their programs, which use REST with them."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa
import structlog

from filemill.adapters.postgres import tokens as rows
from filemill.adapters.postgres.accounts import count_tries
from filemill.adapters.postgres.connection import in_transaction
from filemill.config.logging import LogRateLimit
from filemill.domain.accounts import TRIES_PER_ADDRESS, TRIES_PERIOD, account_name
from filemill.domain.origins import client_key
from filemill.domain.permissions import Permission, Principal, Role
from filemill.domain.tokens import (
    TOKENS_PER_ACCOUNT,
    Network,
    check_expiry,
    check_label,
    check_networks,
    effective_role,
    is_allowed_from,
    new_token,
    parse_networks,
    token_key,
)
from filemill.errors import Conflict, InvalidRequest, NotFound, Unavailable
from filemill.services.access import authorize
from filemill.services.accounts import CACHE_MAX, CACHE_OUTAGE_SECONDS, CACHE_SECONDS, TooManyTries, UnknownAccount
from filemill.services.audit import record

log = structlog.get_logger("tokens")

_wrong_addresses = LogRateLimit(30, 60.0)


class UnknownToken(NotFound):
    """There is no token of this number, or it belongs to somebody else."""

    code = "unknown-token"


class NewToken(msgspec.Struct, frozen=True):
    """A token that was created. `secret` is the token itself: it is not stored, so nobody can read it again."""

    id: int
    owner: str
    label: str
    role: Role
    networks: list[str]
    expires_at: datetime | None
    secret: str


class Tokens:
    """What people do to tokens: their own, or with the permission those of others.

    Each method raises Forbidden, InvalidRequest, Unavailable.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def list(self, principal: Principal, owner: str | None = None) -> list[rows.TokenRow]:
        """The tokens of an account, or of all (None), without their secrets."""
        self._authorize(principal, owner, Permission.USE_OWN_ACCOUNT)
        with self._engine.connect() as connection:
            return rows.list_tokens(connection, owner)

    def create(
        self,
        label: str,
        role: Role,
        principal: Principal,
        *,
        owner: str | None = None,
        expiry: timedelta | None = None,
        networks: Sequence[str] = (),
    ) -> NewToken:
        """Create a token for an account (None: the principal's); `expiry` None: it is valid until it is revoked.

        `networks`: the addresses from which it is valid; empty: from all. Raises UnknownAccount, and Conflict if the
        account has too many.
        """
        name = account_name(principal.name if owner is None else owner)
        self._authorize(principal, name, Permission.CREATE_TOKENS)
        secret = new_token()
        wanted = rows.NewTokenRow(
            token_key(secret), check_label(label), role, check_networks(networks), check_expiry(expiry)
        )

        def insert(connection: sa.Connection) -> tuple[int, datetime | None]:
            found = rows.lock_owner(connection, name)
            if found is None:
                raise UnknownAccount(f"there is no enabled account {name}; `filemill users list` shows all")
            account, of_owner, count = found
            if role.rank > of_owner.rank:
                raise InvalidRequest("role", f"must be at most {of_owner}, the role of {name}")
            if count >= TOKENS_PER_ACCOUNT:
                raise Conflict(f"{name} has {count} tokens: revoke one that is not used", "too-many-tokens")
            number, expires_at = rows.insert_token(connection, account, wanted)
            detail = {"token": number, "account": name, "label": wanted.label, "role": role.value}
            detail |= {"networks": wanted.networks} if wanted.networks else {}
            detail |= {"expires_at": expires_at.isoformat()} if expires_at is not None else {}
            record(connection, principal, "token.create", detail)
            return number, expires_at

        number, expires_at = in_transaction(self._engine, insert)
        return NewToken(number, name, wanted.label, role, wanted.networks, expires_at, secret)

    def revoke(self, number: int, principal: Principal, *, owner: str | None = None) -> None:
        """Revoke a token: one of this account, or of any (None). It is refused within two seconds.

        Raises UnknownToken.
        """
        self._authorize(principal, owner, Permission.USE_OWN_ACCOUNT)

        def delete(connection: sa.Connection) -> None:
            found = rows.delete_token(connection, number, owner) if 0 < number < 2**63 else None
            if found is None:
                raise UnknownToken(f"there is no token {number}")
            name, label = found
            record(connection, principal, "token.revoke", {"token": number, "account": name, "label": label})

        in_transaction(self._engine, delete)

    def _authorize(self, principal: Principal, owner: str | None, for_own: Permission) -> None:
        own = owner is not None and owner == principal.name
        about = {} if owner is None else {"account": owner[:64]}
        authorize(self._engine, principal, for_own if own else Permission.MANAGE_TOKENS, **about)


class _CachedToken(msgspec.Struct, frozen=True):
    """A token that was valid at `read_at`. `ends_at`: when it expires. Both by the clock of this process."""

    principal: Principal
    networks: tuple[Network, ...]
    read_at: float
    ends_at: float


class TokenLookup:
    """Says whose token it is that a program sends. Any thread.

    An unknown token counts as a guess of its address. After too many of them, tokens from this address that this
    process has not seen before are refused for a minute, without a query.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._cache: dict[bytes, _CachedToken] = {}
        self._blocked: dict[str, float] = {}  # until when, by address

    def cached(self, key: bytes, address: str) -> Principal | None:
        """Whose token it is, if that was read within the last seconds and it is valid for the address."""
        known = self._cache.get(key)
        if known is None or not self._is_fresh(known, CACHE_SECONDS) or not is_allowed_from(known.networks, address):
            return None
        return known.principal

    def find(self, key: bytes, address: str) -> Principal | None:
        """Whose token it is; None: it is unknown, expired, revoked, or not valid from this address.

        Raises TooManyTries, Unavailable.
        """
        known = self._cache.get(key)
        if known is None or not self._is_fresh(known, CACHE_SECONDS):
            known = self._read_again(key, address, known)
        if known is None or self._clock() >= known.ends_at:
            return None
        if not is_allowed_from(known.networks, address):
            left_out = _wrong_addresses.admit()
            if left_out is not None:
                about = {"token": known.principal.token, "owner": known.principal.name, "left_out": left_out}
                log.warning("Refused a token: it is not valid from this address", address=address, **about)
            return None
        return known.principal

    def _is_fresh(self, known: _CachedToken, seconds: float) -> bool:
        now = self._clock()
        return now - known.read_at < seconds and now < known.ends_at

    def _read_again(self, key: bytes, address: str, known: _CachedToken | None) -> _CachedToken | None:
        if known is None and self._clock() < self._blocked.get(client_key(address), -math.inf):
            raise TooManyTries("too many unknown tokens from this address: try again in a minute")
        try:
            row = self._read(key)
        except Unavailable:
            if known is not None and self._is_fresh(known, CACHE_OUTAGE_SECONDS):
                return known
            raise
        now = self._clock()
        with self._lock:
            if row is None:
                self._cache.pop(key, None)
            else:
                if len(self._cache) >= CACHE_MAX:
                    self._cache.clear()
                principal = Principal(row.owner, effective_role(row.role, row.owner_role), row.id)
                ends_at = math.inf if row.seconds_left is None else now + row.seconds_left
                found = self._cache[key] = _CachedToken(principal, parse_networks(row.networks), now, ends_at)
                return found
        self._count_guess(address)
        return None

    def _read(self, key: bytes) -> rows.ValidToken | None:
        with self._engine.connect() as connection:
            row = rows.find_token(connection, key)
        if row is not None and row.touch:
            with self._engine.begin() as connection:
                rows.touch_token(connection, row.id)
        return row

    def _count_guess(self, address: str) -> None:
        client = client_key(address)
        with self._engine.begin() as connection:
            (tries,) = count_tries(connection, [f"token {client}"], TRIES_PERIOD)
        if tries < TRIES_PER_ADDRESS:
            return
        with self._lock:
            if len(self._blocked) >= CACHE_MAX:
                self._blocked.clear()
            self._blocked[client] = self._clock() + TRIES_PERIOD.total_seconds()
