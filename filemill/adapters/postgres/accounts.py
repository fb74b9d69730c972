"""Accounts, sessions and attempts to sign in."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from filemill.adapters.postgres.tables import Account, SignInSession
from filemill.domain.permissions import Role


class AccountRow(msgspec.Struct, frozen=True):
    """An account, without its password's hash. `last_used_at`: the last use of a session that still exists.

    `issuer` and `subject` are None for an account with a password.
    """

    name: str
    role: Role
    created_at: datetime
    disabled_at: datetime | None
    sessions: int
    last_used_at: datetime | None
    issuer: str | None = None
    subject: str | None = None


class Credentials(msgspec.Struct, frozen=True):
    """What a sign-in needs of an account."""

    id: int
    password_hash: str


class OwnSession(msgspec.Struct, frozen=True):
    """A session as its owner sees it. `id`: the beginning of its key, in hexadecimal, which opens nothing."""

    id: str
    address: str
    created_at: datetime
    used_at: datetime
    expires_at: datetime


class SessionRow(msgspec.Struct, frozen=True):
    """A valid session: its account's name, role and issuer, and whether its use should be stored."""

    name: str
    role: Role
    issuer: str | None
    touch: bool


class ProviderAccount(msgspec.Struct, frozen=True):
    """The account of somebody who signs in at a provider."""

    id: int
    name: str
    role: Role
    disabled: bool


_ACCOUNTS = sa.text("""
    SELECT name, role, accounts.created_at, disabled_at, count(key), max(used_at), issuer, subject
    FROM accounts LEFT JOIN sessions ON account_id = accounts.id AND expires_at > now()
    GROUP BY accounts.id ORDER BY name
""")
_FIND = sa.text("""
    SELECT name, role, issuer, used_at < now() - interval '1 minute'
    FROM sessions JOIN accounts ON accounts.id = account_id
    WHERE key = :key AND disabled_at IS NULL AND expires_at > now() AND used_at > now() - CAST(:idle AS interval)
""")
_OWN_SESSIONS = sa.text("""
    SELECT encode(substr(key, 1, 8), 'hex'), address, sessions.created_at, used_at, expires_at
    FROM sessions JOIN accounts ON accounts.id = account_id
    WHERE name = :name AND expires_at > now() AND used_at > now() - CAST(:idle AS interval) ORDER BY used_at DESC
""")
_END_OWN = sa.text("""
    DELETE FROM sessions USING accounts
    WHERE accounts.id = account_id AND name = :name AND encode(substr(key, 1, 8), 'hex') = :id
    RETURNING key
""")
_CREATE_SESSION = sa.text("""
    INSERT INTO sessions (key, account_id, address, expires_at, provider_session)
    VALUES (:key, :account, :address, now() + CAST(:most AS interval), :provider_session)
""")
# Sessions that do not know the provider's session end with each of them.
_END_AT_PROVIDER = sa.text("""
    DELETE FROM sessions USING accounts
    WHERE sessions.account_id = accounts.id AND accounts.issuer = :issuer AND accounts.subject = :subject
        AND (provider_session = :provider_session OR provider_session IS NULL
            OR CAST(:provider_session AS text) IS NULL)
    RETURNING sessions.key
""")
_DELETE_EXPIRED = sa.text("DELETE FROM sessions WHERE expires_at < now()")
_FIND_IDENTITY = sa.text("""
    SELECT id, name, role, disabled_at IS NOT NULL FROM accounts WHERE issuer = :issuer AND subject = :subject
""")
_CREATE_ATTEMPT = sa.text("""
    INSERT INTO sign_in_attempts (key, provider, expires_at) VALUES (:key, :provider, now() + CAST(:lasts AS interval))
""")
_DELETE_ATTEMPTS = sa.text("DELETE FROM sign_in_attempts WHERE expires_at < now()")
_TAKE_ATTEMPT = sa.text("""
    DELETE FROM sign_in_attempts WHERE key = :key AND provider = :provider AND expires_at > now() RETURNING key
""")
_COUNT_TRY = sa.text("""
    INSERT INTO sign_in_tries AS known (key, tries) VALUES (:key, 1)
    ON CONFLICT (key) DO UPDATE SET
        tries = CASE WHEN known.since < now() - CAST(:period AS interval) THEN 1 ELSE known.tries + 1 END,
        since = CASE WHEN known.since < now() - CAST(:period AS interval) THEN now() ELSE known.since END
    RETURNING tries
""")
_DELETE_TRIES = sa.text("DELETE FROM sign_in_tries WHERE since < now() - CAST(:period AS interval)")


def list_accounts(connection: sa.Connection) -> list[AccountRow]:
    """All accounts, by name."""
    return [AccountRow(name, Role(role), *others) for name, role, *others in connection.execute(_ACCOUNTS)]


def insert_account(connection: sa.Connection, name: str, role: Role, password_hash: str) -> bool:
    """Insert an account; False if the name is taken."""
    values = {"name": name, "role": role.value, "password_hash": password_hash}
    statement = insert(Account).values(values).on_conflict_do_nothing(index_elements=["name"]).returning(Account.id)
    return connection.execute(statement).one_or_none() is not None


def account_state(connection: sa.Connection, name: str) -> dict[str, object]:
    """Role of an account and whether it is disabled, with a lock on its row; empty if there is none."""
    query = sa.select(Account.role, Account.disabled_at.is_not(None).label("disabled")).where(Account.name == name)
    row = connection.execute(query.with_for_update()).one_or_none()
    return {} if row is None else {"role": row.role, "disabled": row.disabled}


def update_account(connection: sa.Connection, name: str, **values: object) -> bool:
    """Change columns of an account; False if there is none."""
    return connection.execute(sa.update(Account).where(Account.name == name).values(values)).rowcount == 1


def credentials_of(connection: sa.Connection, name: str, *, lock: bool = False) -> Credentials | None:
    """The credentials of an account with a password that is not disabled; `lock`: until the transaction ends."""
    query = sa.select(Account.id, Account.password_hash).where(
        Account.name == name, Account.disabled_at.is_(None), Account.password_hash.is_not(None)
    )
    row = connection.execute(query.with_for_update(key_share=True) if lock else query).one_or_none()
    return None if row is None or row[1] is None else Credentials(row[0], row[1])


def issuer_of(connection: sa.Connection, name: str) -> str | None:
    """The issuer of an account; None: it has a password, or does not exist."""
    return connection.execute(sa.select(Account.issuer).where(Account.name == name)).scalar_one_or_none()


def issuer_of_session(connection: sa.Connection, key: bytes) -> str | None:
    """The issuer of a session's account; None: it has a password, or there is no session."""
    query = sa.select(Account.issuer).join(SignInSession).where(SignInSession.key == key)
    return connection.execute(query).scalar_one_or_none()


def provider_account(connection: sa.Connection, issuer: str, subject: str) -> ProviderAccount | None:
    """The account of a subject of a provider."""
    row = connection.execute(_FIND_IDENTITY, {"issuer": issuer, "subject": subject}).one_or_none()
    return None if row is None else ProviderAccount(row[0], row[1], Role(row[2]), row[3])


def insert_provider_account(
    connection: sa.Connection, issuer: str, subject: str, names: Sequence[str], role: Role
) -> ProviderAccount:
    """The account of a subject, created under the first of the names that is not another's."""
    values = {"issuer": issuer, "subject": subject, "role": role.value}
    for name in names:
        connection.execute(insert(Account).values(name=name, **values).on_conflict_do_nothing())
        found = provider_account(connection, issuer, subject)
        if found is not None:
            return found
    raise RuntimeError(f"the names {', '.join(names)} are taken")  # the last one has a hash of the subject


def insert_attempt(connection: sa.Connection, key: bytes, provider: str, lasts: timedelta) -> None:
    """Insert a sign-in that begins, and delete those that have expired."""
    connection.execute(_CREATE_ATTEMPT, {"key": key, "provider": provider, "lasts": lasts})
    connection.execute(_DELETE_ATTEMPTS)


def take_attempt(connection: sa.Connection, key: bytes, provider: str) -> bool:
    """Delete a sign-in that has begun; False if there is none, so that each ends once."""
    return connection.execute(_TAKE_ATTEMPT, {"key": key, "provider": provider}).one_or_none() is not None


def insert_session(
    connection: sa.Connection,
    key: bytes,
    account: int,
    address: str,
    most: timedelta,
    provider_session: str | None = None,
) -> None:
    """Insert a session, and delete those that have expired."""
    values = {"key": key, "account": account, "address": address, "most": most, "provider_session": provider_session}
    connection.execute(_CREATE_SESSION, values)
    connection.execute(_DELETE_EXPIRED)


def find_session(connection: sa.Connection, key: bytes, idle: timedelta) -> SessionRow | None:
    """A session that is valid now."""
    row = connection.execute(_FIND, {"key": key, "idle": idle}).one_or_none()
    return None if row is None else SessionRow(row[0], Role(row[1]), row[2], row[3])


def own_sessions(connection: sa.Connection, name: str, idle: timedelta) -> list[OwnSession]:
    """The valid sessions of an account, the latest used first."""
    return [OwnSession(*row) for row in connection.execute(_OWN_SESSIONS, {"name": name, "idle": idle})]


def end_own_session(connection: sa.Connection, name: str, session: str) -> list[bytes]:
    """Delete a session of an account; returns its key."""
    return list(connection.execute(_END_OWN, {"name": name, "id": session}).scalars())


def end_provider_sessions(
    connection: sa.Connection, issuer: str, subject: str, provider_session: str | None
) -> list[bytes]:
    """Delete the sessions that belong to one at a provider; None: to any of this subject. Returns their keys."""
    values = {"issuer": issuer, "subject": subject, "provider_session": provider_session}
    return list(connection.execute(_END_AT_PROVIDER, values).scalars())


def touch_session(connection: sa.Connection, key: bytes) -> None:
    """Store that a session is in use."""
    connection.execute(sa.update(SignInSession).where(SignInSession.key == key).values(used_at=sa.func.now()))


def delete_sessions(connection: sa.Connection, *, key: bytes | None = None, name: str | None = None) -> int:
    """Delete one session, or all of an account; returns how many."""
    if key is not None:
        return connection.execute(sa.delete(SignInSession).where(SignInSession.key == key)).rowcount
    accounts = sa.select(Account.id).where(Account.name == name)
    return connection.execute(sa.delete(SignInSession).where(SignInSession.account_id.in_(accounts))).rowcount


def count_tries(connection: sa.Connection, keys: Sequence[str], period: timedelta) -> list[int]:
    """Count an attempt under each key; returns the attempts within the period. Sorted keys avoid deadlocks."""
    connection.execute(_DELETE_TRIES, {"period": period})
    return [connection.execute(_COUNT_TRY, {"key": key, "period": period}).scalar_one() for key in keys]
