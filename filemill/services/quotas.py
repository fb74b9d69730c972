"""Limits of submissions, in the transaction that accepts them, so that several dashboards agree.

A row per person or address is locked until the commit, so requests of one sender are accepted one after the other.
"""

import time
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
import structlog

from filemill.adapters.postgres.limits import (
    delete_unused,
    files_in_flight,
    lock_usage,
    read_usage,
    store_usage,
)
from filemill.config.logging import LogRateLimit
from filemill.domain.files import NewFile
from filemill.domain.limits import LimitExceeded, Limits, Usage, burst_left, day_of, limit_key, use
from filemill.domain.permissions import Principal

log = structlog.get_logger("limits")

REFUSALS_PER_MINUTE = 30
CLEAN_SECONDS = 600.0
_refusals = LogRateLimit(REFUSALS_PER_MINUTE, 60.0)


class UsageView(msgspec.Struct, frozen=True):
    """What a person has used of the limits, for a page. `writes_left` at once."""

    limits: Limits
    writes_left: int
    files_in_flight: int
    bytes_today: int


class Quotas:
    """Applies the limits. Any thread; without limits, it does nothing."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._cleaned_at = float("-inf")

    def use_each(
        self, connection: sa.Connection, principals: Sequence[Principal], files: Sequence[NewFile]
    ) -> list[LimitExceeded | None]:
        """Count requests of one file each, in their order; returns for each one why it is refused, None if it is not.

        A refused one uses nothing.
        """
        keys = [limit_key(principal) for principal in principals] if self._limits.active else []
        refused: list[LimitExceeded | None] = [None] * len(files)
        for key in sorted({key for key in keys if key is not None}):  # one order for all transactions: no deadlock
            places = [place for place, other in enumerate(keys) if other == key]
            usage, now = self._lock(connection, key, principals[places[0]], len(places))
            for place in places:
                try:
                    usage = use(self._limits, usage, now, [files[place]])
                except LimitExceeded as exceeded:
                    refused[place] = exceeded
                    _log(principals[place], exceeded)
            store_usage(connection, key, usage)
        if keys:
            self._clean(connection)
        return refused

    def use(self, connection: sa.Connection, principal: Principal, files: Sequence[NewFile]) -> None:
        """Count one request with these files. Raises LimitExceeded; the caller's transaction is rolled back."""
        key = limit_key(principal) if self._limits.active else None
        if key is None:
            return
        usage, now = self._lock(connection, key, principal, len(files))
        try:
            store_usage(connection, key, use(self._limits, usage, now, files))
            self._clean(connection)
        except LimitExceeded as exceeded:
            _log(principal, exceeded)
            raise

    def view(self, connection: sa.Connection, principal: Principal) -> UsageView | None:
        """What a principal has used; None: nothing limits it."""
        key = limit_key(principal) if self._limits.active else None
        if key is None:
            return None
        usage, now = read_usage(connection, key)
        most = self._limits.files_in_flight
        in_flight = files_in_flight(connection, principal.name, most) if most else 0
        return UsageView(self._limits, burst_left(self._limits, usage, now), in_flight, usage.bytes_on(day_of(now)))

    def _clean(self, connection: sa.Connection) -> None:
        """Delete rows of the past, now and then."""
        now = time.monotonic()
        if now - self._cleaned_at > CLEAN_SECONDS:
            self._cleaned_at = now
            delete_unused(connection)

    def _lock(self, connection: sa.Connection, key: str, principal: Principal, files: int) -> tuple[Usage, float]:
        usage, now = lock_usage(connection, key)
        most = self._limits.files_in_flight
        if most:  # a new statement: it sees what the transactions that were waited for have accepted
            in_flight = files_in_flight(connection, principal.name, most + files)
            usage = msgspec.structs.replace(usage, in_flight=in_flight)
        return usage, now


def _log(principal: Principal, exceeded: LimitExceeded) -> None:
    left_out = _refusals.admit()
    if left_out is not None:
        log.warning(
            "Refused a request above a limit",
            actor=principal.name,
            code=exceeded.code,
            request_id=principal.source.request_id,
            left_out=left_out,
        )
