"""The way to a server that all passages share, with a breaker in it."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from filemill.domain.circuit_breaker import BreakerState
from filemill.domain.retry import RetryPolicy
from filemill.domain.worker_events import EventKind
from filemill.errors import Unavailable

log = structlog.get_logger("processor")

# A probe this often finds a server that is back soon enough; a thousand waiting records cost nothing meanwhile.
PROBE_POLICY = RetryPolicy(base_seconds=0.2, cap_seconds=2.0)


class CircuitBreaker:
    """Lets calls to one server through; while it is away, one at a time tries, and the others wait here.

    Used on the workshop's thread alone; `reason` may be read by any.
    """

    def __init__(self, server: str, emit: Callable[[EventKind, str], None], jitter: random.Random) -> None:
        self._server = server
        self._emit = emit
        self._jitter = jitter
        self._state = BreakerState(PROBE_POLICY)
        self._closed = asyncio.Event()
        self._probing = False
        self.reason: str | None = None

    async def call(self, call: Callable[[], Awaitable[None]]) -> None:
        """Make the call, now or when the server is back. Raises what the call raises."""
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
                # Whoever waits next may try; the failed one goes back through its own backoff.
                self._end_probe()

    async def _wait_until_allowed(self) -> bool:
        """Wait until the breaker is closed, or until it is this caller's turn to probe (True)."""
        while self._state.open:
            if self._probing:
                await self._closed.wait()
                continue
            self._probing = True
            try:
                await asyncio.sleep(self._state.probe_delay(self._jitter))
            except BaseException:
                self._end_probe()  # its record was let go
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
