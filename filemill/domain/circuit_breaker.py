"""A circuit breaker for calls to one server. Pure."""

import random

from filemill.domain.retry import RetryPolicy


class BreakerState:
    """Opens when a server is away for everybody, so that a thousand records do not each find it out for themselves.

    After `threshold` failures in a row (`Unavailable`, from any record) it is open: `delay` says how long to wait
    before the next try, growing with each that fails; one success closes it. Pure but for its count: one thread.
    """

    def __init__(self, policy: RetryPolicy, threshold: int = 5) -> None:
        self._policy = policy
        self._threshold = threshold
        self._failures = 0
        self.reason: str | None = None

    @property
    def open(self) -> bool:
        """Whether work should wait."""
        return self._failures >= self._threshold

    def record_failure(self, reason: str) -> bool:
        """Note a failure; whether it opened the breaker just now."""
        self._failures += 1
        self.reason = reason
        return self._failures == self._threshold

    def record_success(self) -> bool:
        """Note a success; whether it closed the breaker just now."""
        was_open = self.open
        self._failures = 0
        self.reason = None
        return was_open

    def probe_delay(self, jitter: random.Random) -> float:
        """How long to wait before the next probe, in seconds; at least a half of the backoff, so that it is a pause."""
        over = max(1, self._failures - self._threshold + 1)
        ceiling = min(self._policy.cap_seconds, self._policy.base_seconds * 2 ** min(over, 32))
        return jitter.uniform(ceiling / 2, ceiling)
