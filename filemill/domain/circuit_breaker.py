"""The state of a circuit breaker for calls to one server. Pure."""

import random

from filemill.domain.retry import RetryPolicy


class BreakerState:
    """Opens after `threshold` failures in a row, whichever records they came from; one success closes it.

    While it is open, `probe_delay` is the wait before the next attempt. It grows with each failed one. One thread.
    """

    def __init__(self, policy: RetryPolicy, threshold: int = 5) -> None:
        self._policy = policy
        self._threshold = threshold
        self._failures = 0
        self.reason: str | None = None

    @property
    def open(self) -> bool:
        """Whether calls must wait."""
        return self._failures >= self._threshold

    def record_failure(self, reason: str) -> bool:
        """Count a failure; returns whether it opened the breaker."""
        self._failures += 1
        self.reason = reason
        return self._failures == self._threshold

    def record_success(self) -> bool:
        """Reset the count; returns whether that closed the breaker."""
        was_open = self.open
        self._failures = 0
        self.reason = None
        return was_open

    def probe_delay(self, jitter: random.Random) -> float:
        """Seconds to wait before the next probe: between half of the backoff and all of it."""
        over = max(1, self._failures - self._threshold + 1)
        ceiling = min(self._policy.cap_seconds, self._policy.base_seconds * 2 ** min(over, 32))
        return jitter.uniform(ceiling / 2, ceiling)
