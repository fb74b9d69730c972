"""Accounts and their sessions: people who sign in with a name and a password."""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta

import msgspec
import sqlalchemy as sa
import structlog

from filemill.adapters.passwords import hash_password, needs_rehash, verify_password
from filemill.adapters.postgres import accounts as rows
from filemill.adapters.postgres.connection import in_transaction
from filemill.domain.accounts import (
    PASSWORD_MAX_CHARACTERS,
    SESSION_IDLE,
    SESSION_MAX,
    TRIES_PER_ACCOUNT,
    TRIES_PER_ADDRESS,
    TRIES_PERIOD,
    account_name,
    check_password,
    known_name,
)
from filemill.domain.origins import client_key
from filemill.domain.permissions import Permission, Principal, Role
from filemill.errors import Conflict, InvalidRequest, NotFound, Unavailable
from filemill.services.access import authorize
from filemill.services.audit import record

log = structlog.get_logger("accounts")

# A session is read again after this time, so a revoked one is refused within it.
CACHE_SECONDS = 2.0
# While PostgreSQL is unreachable, a session that was valid before stays valid for this time.
CACHE_OUTAGE_SECONDS = 300.0
CACHE_MAX = 4096


class UnknownAccount(NotFound):
    """There is no account of this name."""

    code = "unknown-account"


class UnknownSession(NotFound):
    """There is no such session of this account."""

    code = "unknown-session"


class TooManyTries(Exception):
    """Too many attempts to sign in."""

    code = "too-many-tries"


class Accounts:
    """What admins do to accounts. Each raises Forbidden, InvalidRequest, UnknownAccount, Unavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def list(self, principal: Principal) -> list[rows.AccountRow]:
        """All accounts, by name."""
        authorize(self._engine, principal, Permission.MANAGE_PEOPLE)
        with self._engine.connect() as connection:
            return rows.list_accounts(connection)

    def add(self, name: str, role: Role, password: str, principal: Principal) -> str:
        """Create an account; returns its name in lower case. Raises Conflict if the name is taken."""
        authorize(self._engine, principal, Permission.MANAGE_PEOPLE, account=name[:64])
        known, stored = account_name(name), hash_password(check_password(password))

        def insert(connection: sa.Connection) -> None:
            if not rows.insert_account(connection, known, role, stored):
                raise Conflict(f"there is an account {known} already", "account-exists")
            record(connection, principal, "account.add", {"account": known, "role": role.value})

        in_transaction(self._engine, insert)
        return known

    def set_password(self, name: str, password: str, principal: Principal) -> None:
        """Replace a password. All sessions of the account end."""
        authorize(self._engine, principal, Permission.MANAGE_PEOPLE, account=name[:64])
        self._check_no_provider(name, "the password")
        self._update(name, "account.password", {}, principal, password_hash=hash_password(check_password(password)))

    def set_role(self, name: str, role: Role, principal: Principal) -> None:
        """Change a role. It holds for open pages within seconds."""
        authorize(self._engine, principal, Permission.MANAGE_PEOPLE, account=name[:64])
        self._check_no_provider(name, "the role")
        self._update(name, "account.role", {"role": role.value}, principal, end_sessions=False, role=role.value)

    def disable(self, name: str, principal: Principal) -> None:
        """Disable an account. All its sessions end."""
        authorize(self._engine, principal, Permission.MANAGE_PEOPLE, account=name[:64])
        self._update(name, "account.disable", {}, principal, disabled_at=sa.func.now())

    def enable(self, name: str, principal: Principal) -> None:
        """Enable an account again."""
        authorize(self._engine, principal, Permission.MANAGE_PEOPLE, account=name[:64])
        self._update(name, "account.enable", {}, principal, disabled_at=None)

    def _check_no_provider(self, name: str, what: str) -> None:
        with self._engine.connect() as connection:
            issuer = rows.issuer_of(connection, known_name(name))
        if issuer is not None:
            raise Conflict(f"{what} of {known_name(name)} is determined by {issuer}", "account-of-provider")

    def _update(
        self,
        name: str,
        action: str,
        detail: dict[str, str],
        principal: Principal,
        *,
        end_sessions: bool = True,
        **values: object,
    ) -> None:
        known = known_name(name)

        def update(connection: sa.Connection) -> None:
            before = rows.account_state(connection, known)
            if not rows.update_account(connection, known, **values):
                raise UnknownAccount(f"there is no account {known}; `filemill users list` shows all")
            if end_sessions:
                rows.delete_sessions(connection, name=known)
            change = {"before": before, "after": rows.account_state(connection, known)}
            record(connection, principal, action, {"account": known, **detail, **change})

        in_transaction(self._engine, update)


class _Cached(msgspec.Struct, frozen=True):
    principal: Principal
    read_at: float


class PrincipalCache:
    """Whose a secret is, by its hash. Any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._cache: dict[bytes, _Cached] = {}

    def cached(self, key: bytes) -> Principal | None:
        """Whose it is, if that was read within the last seconds."""
        known = self._cache.get(key)
        return known.principal if known is not None and self._clock() - known.read_at < CACHE_SECONDS else None

    def find(self, key: bytes, read: Callable[[], Principal | None]) -> Principal | None:
        """Whose it is, read again after some seconds. In an outage the last answer holds. Raises Unavailable."""
        found = self.cached(key)
        if found is not None:
            return found
        try:
            principal = read()
        except Unavailable:
            known = self._cache.get(key)
            if known is not None and self._clock() - known.read_at < CACHE_OUTAGE_SECONDS:
                return known.principal
            raise
        if principal is None:
            self.forget(key)
            return None
        with self._lock:
            if len(self._cache) >= CACHE_MAX:
                self._cache.clear()
            self._cache[key] = _Cached(principal, self._clock())
        return principal

    def forget(self, key: bytes) -> None:
        """Read it again at its next use."""
        with self._lock:
            self._cache.pop(key, None)


def session_key(secret: str) -> bytes:
    """The key under which a session is stored. The secret has 256 random bits, so it needs no salt."""
    return hashlib.sha256(secret.encode()).digest()


class Sessions:
    """Signs people in and out, and says whose session a secret is. Any thread."""

    def __init__(
        self,
        engine: sa.Engine,
        clock: Callable[[], float] = time.monotonic,
        issuers: Collection[str | None] = (None,),
    ) -> None:
        """`issuers`: whose sessions count; None stands for accounts with a password."""
        self._engine = engine
        self._cache = PrincipalCache(clock)
        self._issuers = frozenset(issuers)

    def sign_in(self, name: str, password: str, address: str, former: str = "") -> str | None:
        """Sign in; returns the secret of a new session, or None if name or password are wrong.

        `former` is the secret that the browser had before; that session ends. Raises TooManyTries, Unavailable.
        """
        try:
            known = account_name(name)
        except InvalidRequest:
            known = ""
        self._count_try(known, address)
        with self._engine.connect() as connection:
            account = rows.credentials_of(connection, known) if known else None
        right = len(password) <= PASSWORD_MAX_CHARACTERS and verify_password(
            account.password_hash if account else None, password
        )
        if account is None or not right:
            return None
        verified = account.password_hash
        rehashed = hash_password(password) if needs_rehash(verified) else None

        def is_current(connection: sa.Connection) -> bool:
            """Lock the account until the session exists: its password may have changed since it was read."""
            present = rows.credentials_of(connection, known, lock=True)
            if present is None or present.password_hash != verified:
                return False
            if rehashed is not None:
                rows.update_account(connection, known, password_hash=rehashed)
            return True

        secret = self._open(account.id, address, former, SESSION_MAX, is_current=is_current)
        if secret is None:
            return None
        log.info("Signed in", account=known, address=address)
        return secret

    def open(
        self, account: int, address: str, former: str, lasts: timedelta, provider_session: str | None = None
    ) -> str:
        """Start a session of an account; returns its secret. The session of the secret `former` ends."""
        secret = self._open(account, address, former, lasts, provider_session)
        assert secret is not None
        return secret

    def _open(
        self,
        account: int,
        address: str,
        former: str,
        lasts: timedelta,
        provider_session: str | None = None,
        is_current: Callable[[sa.Connection], bool] = lambda _connection: True,
    ) -> str | None:
        """Start a session unless `is_current` says no in the same transaction; then returns None."""
        secret = secrets.token_urlsafe(32)

        def store(connection: sa.Connection) -> bool:
            if not is_current(connection):
                return False
            if former:
                rows.delete_sessions(connection, key=session_key(former))
            rows.insert_session(connection, session_key(secret), account, address, lasts, provider_session)
            return True

        if not in_transaction(self._engine, store):
            return None
        self._cache.forget(session_key(former))
        return secret

    def sign_out(self, secret: str) -> str | None:
        """End a session; returns the issuer at which its owner signed in. Raises Unavailable."""
        key = session_key(secret)
        with self._engine.begin() as connection:
            issuer = rows.issuer_of_session(connection, key)
            rows.delete_sessions(connection, key=key)
        self._cache.forget(key)
        return issuer

    def end_of_provider(self, issuer: str, subject: str, provider_session: str | None) -> int:
        """End the sessions that belong to one at a provider; None: all of its subject. Returns how many."""
        ended = in_transaction(
            self._engine,
            lambda connection: rows.end_provider_sessions(connection, issuer, subject, provider_session),
        )
        for key in ended:
            self._cache.forget(key)
        return len(ended)

    def list_own(self, principal: Principal) -> list[rows.OwnSession]:
        """The principal's sessions, the latest used first. Raises Forbidden, Unavailable."""
        authorize(self._engine, principal, Permission.USE_OWN_ACCOUNT)
        with self._engine.connect() as connection:
            return rows.own_sessions(connection, principal.name, SESSION_IDLE)

    def end_own(self, session: str, principal: Principal) -> None:
        """End one of the principal's sessions. Raises UnknownSession, Forbidden, Unavailable."""
        authorize(self._engine, principal, Permission.USE_OWN_ACCOUNT)

        def end(connection: sa.Connection) -> list[bytes]:
            keys = rows.end_own_session(connection, principal.name, session)
            if not keys:
                raise UnknownSession("there is no such session any more")
            record(connection, principal, "session.end", {"account": principal.name, "session": session[:16]})
            return keys

        for key in in_transaction(self._engine, end):
            self._cache.forget(key)

    def cached(self, key: bytes) -> Principal | None:
        """Whose session it is, if that was read within the last seconds."""
        return self._cache.cached(key)

    def find(self, key: bytes) -> Principal | None:
        """Whose session it is; None: it is unknown, expired or revoked. Raises Unavailable."""
        return self._cache.find(key, lambda: self._read(key))

    def _read(self, key: bytes) -> Principal | None:
        with self._engine.connect() as connection:
            row = rows.find_session(connection, key, SESSION_IDLE)
        if row is None or row.issuer not in self._issuers:
            return None
        if row.touch:
            with self._engine.begin() as connection:
                rows.touch_session(connection, key)
        return Principal(row.name, row.role)

    def _count_try(self, name: str, address: str) -> None:
        client = client_key(address)
        by_account, by_address = self.count_tries([f"account {name} {client}", f"address {client}"])
        if by_account > TRIES_PER_ACCOUNT or by_address > TRIES_PER_ADDRESS:
            raise TooManyTries("too many attempts to sign in: try again in a minute")

    def count_tries(self, keys: Sequence[str]) -> list[int]:
        """Count an attempt under each of the sorted keys; returns how many there were within the period."""
        with self._engine.begin() as connection:
            return rows.count_tries(connection, keys, TRIES_PERIOD)
