"""A circuit breaker around the calls to one server, shared by all records in progress."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from filemill.domain.circuit_breaker import BreakerState
from filemill.domain.retry import RetryPolicy
from filemill.domain.worker_events import EventKind
from filemill.errors import Unavailable

log = structlog.get_logger("processor")

# How often a probe finds out whether the server is reachable again.
PROBE_POLICY = RetryPolicy(base_seconds=0.2, cap_seconds=2.0)


class CircuitBreaker:
    """Makes calls to one server. While it is unreachable, one call at a time probes it and the others wait.

    For the thread of the event loop; any thread may read `reason`.
    """

    def __init__(
        self,
        server: str,
        emit: Callable[[EventKind, str], None],
        jitter: random.Random,
        probe_policy: RetryPolicy = PROBE_POLICY,
    ) -> None:
        self._server = server
        self._emit = emit
        self._jitter = jitter
        self._state = BreakerState(probe_policy)
        self._closed = asyncio.Event()
        self._probing = False
        self.reason: str | None = None

    async def call(self, call: Callable[[], Awaitable[None]]) -> None:
        """Make the call, at once or when the server is reachable again. Raises what the call raises."""
        probing = await self._wait_until_allowed()
        try:
            await call()
        except Unavailable as error:
            if self._state.record_failure(str(error)):
                self._closed.clear()
                self._report(EventKind.BREAKER_OPENED, str(error))
            raise
        else:
            if self._state.record_success():
                self._report(EventKind.BREAKER_CLOSED, None)
                self._closed.set()
        finally:
            if probing:
                # The next waiting call probes; the one that failed waits for its own backoff first.
                self._end_probe()

    async def _wait_until_allowed(self) -> bool:
        """Wait until the breaker is closed, or until this call may probe (True)."""
        while self._state.open:
            if self._probing:
                await self._closed.wait()
                continue
            self._probing = True
            try:
                await asyncio.sleep(self._state.probe_delay(self._jitter))
            except BaseException:
                self._end_probe()  # its record was abandoned
                raise
            return True
        return False

    def _end_probe(self) -> None:
        self._probing = False
        if self._state.open:
            self._closed.set()
            self._closed.clear()

    def _report(self, kind: EventKind, reason: str | None) -> None:
        self.reason = f"{self._server}: {reason}" if reason else None
        log.warning("Breaker", server=self._server, state=kind.value, reason=reason)
        self._emit(kind, self.reason or self._server)
