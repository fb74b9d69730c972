"""Personal tokens of accounts."""

from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.tables import Account, PersonalToken
from filemill.domain.permissions import Role


class TokenRow(msgspec.Struct, frozen=True):
    """A token without its secret. `owner`: the name of the account; `role`: the greatest that it has."""

    id: int
    owner: str
    label: str
    role: Role
    networks: list[str]
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None
    expired: bool


class NewTokenRow(msgspec.Struct, frozen=True):
    """What is stored of a new token. `expiry`: how long it is valid; None: until it is revoked."""

    key: bytes
    label: str
    role: Role
    networks: list[str]
    expiry: timedelta | None


class ValidToken(msgspec.Struct, frozen=True):
    """A token that is valid now, its owner, and whether its use should be stored. `seconds_left`: until it expires."""

    id: int
    owner: str
    role: Role
    owner_role: Role
    networks: list[str]
    seconds_left: float | None
    touch: bool


_LIST = sa.text("""
    SELECT tokens.id, name, label, tokens.role, networks, tokens.created_at, expires_at, used_at,
           coalesce(expires_at <= now(), false)
    FROM tokens JOIN accounts ON accounts.id = account_id
    WHERE CAST(:owner AS text) IS NULL OR name = :owner ORDER BY name, tokens.id
""")
_INSERT = sa.text("""
    INSERT INTO tokens (key, account_id, label, role, networks, expires_at)
    VALUES (:key, :account, :label, :role, :networks, now() + CAST(:expiry AS interval))
    RETURNING id, expires_at
""")
_FIND = sa.text("""
    SELECT tokens.id, name, tokens.role, accounts.role, networks, extract(epoch FROM expires_at - now()),
           coalesce(used_at < now() - interval '1 minute', true)
    FROM tokens JOIN accounts ON accounts.id = account_id
    WHERE key = :key AND disabled_at IS NULL AND (expires_at IS NULL OR expires_at > now())
""")
_TOUCH = sa.text("""
    UPDATE tokens SET used_at = now() WHERE id = :id AND coalesce(used_at < now() - interval '1 minute', true)
""")
_DELETE = sa.text("""
    DELETE FROM tokens USING accounts
    WHERE tokens.id = :id AND accounts.id = account_id AND (CAST(:owner AS text) IS NULL OR name = :owner)
    RETURNING name, label
""")


def list_tokens(connection: sa.Connection, owner: str | None) -> list[TokenRow]:
    """The tokens of an account, or of all (None), by owner and id."""
    return [
        TokenRow(number, name, label, Role(role), *rest)
        for number, name, label, role, *rest in connection.execute(_LIST, {"owner": owner})
    ]


def lock_owner(connection: sa.Connection, owner: str) -> tuple[int, Role, int] | None:
    """The id, the role and the number of tokens of an account that is not disabled; None: there is none.

    The account is locked until the end of the transaction, so that its role and this number stay the same.
    """
    query = sa.select(Account.id, Account.role).where(Account.name == owner, Account.disabled_at.is_(None))
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        return None
    count = sa.select(sa.func.count()).where(PersonalToken.account_id == row.id)
    return row.id, Role(row.role), connection.execute(count).scalar_one()


def insert_token(connection: sa.Connection, account: int, token: NewTokenRow) -> tuple[int, datetime | None]:
    """Insert a token; returns its id and the time at which it expires."""
    values = {**msgspec.structs.asdict(token), "role": token.role.value, "account": account}
    number, expires_at = connection.execute(_INSERT, values).one()
    return number, expires_at


def find_token(connection: sa.Connection, key: bytes) -> ValidToken | None:
    """A token that is valid now, and whose owner is not disabled."""
    row = connection.execute(_FIND, {"key": key}).one_or_none()
    if row is None:
        return None
    number, owner, role, owner_role, networks, seconds, touch = row
    left = None if seconds is None else float(seconds)
    return ValidToken(number, owner, Role(role), Role(owner_role), networks, left, touch)


def touch_token(connection: sa.Connection, number: int) -> None:
    """Store that a token is in use, at most once a minute."""
    connection.execute(_TOUCH, {"id": number})


def delete_token(connection: sa.Connection, number: int, owner: str | None) -> tuple[str, str] | None:
    """Delete a token, of this owner or of any (None); returns its owner and label; None: there is none."""
    row = connection.execute(_DELETE, {"id": number, "owner": owner}).one_or_none()
    return None if row is None else (row.name, row.label)
