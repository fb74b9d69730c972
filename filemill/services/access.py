"""Authorization of use cases: a refused attempt is an error, and is in the audit log."""

import sqlalchemy as sa
import structlog

from filemill.config.logging import LogRateLimit
from filemill.domain.permissions import Permission, Principal, refusal
from filemill.errors import Unavailable
from filemill.services.audit import REFUSED, record

log = structlog.get_logger("access")

# Audit records of refused attempts by this process, at most. A later record has the number left out.
RECORDS_PER_MINUTE = 30
_records = LogRateLimit(RECORDS_PER_MINUTE, 60.0)


def authorize(engine: sa.Engine, principal: Principal, permission: Permission, **about: object) -> None:
    """Return if the principal has the permission; otherwise record the attempt and raise Forbidden.

    `about` is part of the record. The attempt is refused even if it cannot be recorded.
    """
    forbidden = refusal(principal, permission)
    if forbidden is None:
        return
    left_out = _records.admit()
    if left_out is not None:
        detail = {"refused": str(forbidden), "permission": permission, "role": principal.role, **about}
        try:
            with engine.begin() as connection:
                record(connection, principal, REFUSED, {**detail, "left_out": left_out} if left_out else detail)
        except Unavailable as error:
            log.warning("Cannot record a refused attempt", actor=principal.name, error=str(error), **detail)
    raise forbidden
