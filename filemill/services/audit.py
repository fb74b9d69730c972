"""The audit record of what people and programs change: each use case writes its own."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
import structlog

from filemill.adapters.postgres.audit import insert_operation, mark_refused
from filemill.config.logging import LogRateLimit
from filemill.domain.permissions import Principal

log = structlog.get_logger("operations")

# The action of a refused attempt, see `filemill.services.access`.
REFUSED = "refused"
ACTOR_MAX_CHARACTERS = 200
# Log lines about refused operations, at most.
REFUSALS_PER_MINUTE = 30
_refusals = LogRateLimit(REFUSALS_PER_MINUTE, 60.0)


def record(connection: sa.Connection, principal: Principal, action: str, detail: Mapping[str, Any]) -> int:
    """Record an operation in the caller's transaction; returns the record's id.

    The principal's name is cut and made printable. With a personal token, the record has its id as `by_token`.
    """
    if principal.token is not None:
        detail = {**detail, "by_token": principal.token}
    printable = "".join(character for character in principal.name[:ACTOR_MAX_CHARACTERS] if character.isprintable())
    return insert_operation(connection, printable, action, detail)


def record_files(connection: sa.Connection, principal: Principal, action: str, files: list[Any], asked: int) -> None:
    """Record what was done to `files`. If that is none of those asked for, log it instead of storing a row."""
    if files:
        record(connection, principal, action, {"files": files, "asked": asked})
    elif asked:
        log_refusal(principal, action, "none of the files can be", files=asked)


def record_refusal(connection: sa.Connection, operation: int, reason: str) -> None:
    """Note on a recorded operation that it was refused after all."""
    mark_refused(connection, operation, reason)


def log_refusal(principal: Principal, action: str, reason: str, **about: object) -> None:
    """Log an operation that was refused and not recorded. The log is limited; a later line has the number left out."""
    left_out = _refusals.admit()
    if left_out is not None:
        log.warning(
            "Refused an operation", actor=principal.name, action=action, reason=reason, left_out=left_out, **about
        )
