"""Authorization of use cases: a refused attempt is an error, and is in the audit log."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import sqlalchemy as sa
import structlog

from filemill.config.logging import LogRateLimit
from filemill.domain.permissions import Permission, Principal, refusal
from filemill.errors import Forbidden, Unavailable
from filemill.services.audit import REFUSED, record

log = structlog.get_logger("access")

# Audit records of refused attempts by this process, at most: of one principal from one address, and of all together. A
# later record has the number left out.
RECORDS_PER_MINUTE = 10
ALL_RECORDS_PER_MINUTE = 120
PRINCIPALS_MAX = 1024


class RefusalRecords:
    """Decides which refused attempts are recorded. Any thread."""

    def __init__(
        self,
        each: int = RECORDS_PER_MINUTE,
        together: int = ALL_RECORDS_PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._each = each
        self._clock = clock
        self._together = LogRateLimit(together, 60.0, clock)
        self._lock = threading.Lock()
        self._left_out = 0
        self._limits: OrderedDict[tuple[str, str], LogRateLimit] = OrderedDict()

    def admit(self, principal: Principal) -> int | None:
        """Whether to record an attempt: the number left out since the last record; None: leave it out."""
        key = (principal.name, principal.source.address)
        with self._lock:
            limit = self._limits.pop(key, None) or LogRateLimit(self._each, 60.0, self._clock)
            self._limits[key] = limit
            if len(self._limits) > PRINCIPALS_MAX:
                self._limits.popitem(last=False)
        left_out = limit.admit()
        if left_out is None:
            return None
        others = self._together.admit()
        with self._lock:
            # The others' number is not lost if this record is the one too many.
            self._left_out += left_out
            if others is None:
                return None
            total, self._left_out = self._left_out + others, 0
        return total


_records = RefusalRecords()


def authorize(engine: sa.Engine, principal: Principal, permission: Permission, **about: object) -> None:
    """Return if the principal has the permission; otherwise record the attempt and raise Forbidden.

    `about` is part of the record. The attempt is refused even if it cannot be recorded.
    """
    forbidden = refusal(principal, permission)
    if forbidden is None:
        return
    record_attempt(engine, principal, forbidden, **about)
    raise forbidden


def record_attempt(engine: sa.Engine, principal: Principal, forbidden: Forbidden, **about: object) -> None:
    """Record a refused attempt. Records are limited, and a failure to record is only logged."""
    left_out = _records.admit(principal)
    if left_out is not None:
        detail = {"refused": str(forbidden), "permission": forbidden.permission, "role": principal.role, **about}
        try:
            with engine.begin() as connection:
                record(connection, principal, REFUSED, {**detail, "left_out": left_out} if left_out else detail)
        except Unavailable as error:
            log.warning("Cannot record a refused attempt", actor=principal.name, error=str(error), **detail)
