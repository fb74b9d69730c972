"""The audit record of what people and programs change: each use case writes its own. Rows are never changed."""

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog

from filemill.adapters.postgres.audit import insert_operation
from filemill.config.logging import LogRateLimit
from filemill.domain.permissions import Principal, RequestSource

log = structlog.get_logger("operations")

# The action of a refused attempt, see `filemill.services.access`.
REFUSED = "refused"
ACTOR_MAX_CHARACTERS = 200
TEXT_MAX_CHARACTERS = 2000
ORIGIN_MAX_CHARACTERS = 100
# Log lines about refused operations, at most.
REFUSALS_PER_MINUTE = 30
_refusals = LogRateLimit(REFUSALS_PER_MINUTE, 60.0)


def record(
    connection: sa.Connection,
    principal: Principal,
    action: str,
    detail: Mapping[str, Any],
    *,
    follows: int | None = None,
) -> int:
    """Record an operation in the caller's transaction; returns the record's id.

    Other writers wait from here to the commit, so this is best the last statement. `follows` is the id of an earlier
    record that this one completes. With a personal token, the record has its id as `by_token`. Names are cut and made
    printable. Texts in `detail` are cut, and characters that PostgreSQL cannot store are replaced.
    """
    source = principal.source
    if principal.token is not None:
        detail = {**detail, "by_token": principal.token}
        source = msgspec.structs.replace(source, authentication=f"token:{principal.token}")
    cleaned = RequestSource(
        *(_printable(getattr(source, name), ORIGIN_MAX_CHARACTERS) for name in source.__struct_fields__)
    )
    storable = {_storable_text(key): storable_value(value) for key, value in detail.items()}
    actor = _printable(principal.name, ACTOR_MAX_CHARACTERS)
    return insert_operation(connection, actor, action, storable, cleaned, follows=follows)


def record_files(
    connection: sa.Connection, principal: Principal, action: str, files: list[Any], asked: int, **more: object
) -> None:
    """Record what was done to `files`. If that is none of those asked for, log it instead of storing a row."""
    if files:
        record(connection, principal, action, {"files": files, "asked": asked, **more})
    elif asked:
        log_refusal(principal, action, "none of the files can be", files=asked)


def record_refusal(connection: sa.Connection, principal: Principal, action: str, operation: int, reason: str) -> None:
    """Record that a recorded operation was refused after all."""
    record(connection, principal, action, {"refused": reason}, follows=operation)


def log_refusal(principal: Principal, action: str, reason: str, **about: object) -> None:
    """Log an operation that was refused and not recorded. The log is limited; a later line has the number left out."""
    left_out = _refusals.admit()
    if left_out is not None:
        log.warning(
            "Refused an operation", actor=principal.name, action=action, reason=reason, left_out=left_out, **about
        )


def storable_value(value: object) -> object:
    """The value for a JSON column: texts are cut; NUL and surrogates, which PostgreSQL rejects, are replaced."""
    if isinstance(value, str):
        return _storable_text(value)
    if isinstance(value, Mapping):
        return {_storable_text(str(key)): storable_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [storable_value(one) for one in value]
    return value


def _storable_text(text: str) -> str:
    cut = text[:TEXT_MAX_CHARACTERS].replace("\0", "\ufffd")
    return cut.encode("utf-8", "replace").decode() if not cut.isascii() else cut


def _printable(text: str, most: int) -> str:
    return "".join(character for character in text[:most] if character.isprintable())
