"""What to do with a record whose processing failed: try again, and when; or park it in the dead letters.

Errors come in two kinds, told apart by type. `Unavailable`: the thing needed is away (S3, the broker); it says nothing
about the record, so it costs the record no attempt, and it goes on being tried. Everything else may be the record's
own fault: it has a bounded number of attempts. Both back off exponentially with full jitter
(M. Brooker, "Exponential Backoff And Jitter", 2015), so that a thousand records do not return at the same moment.
"""

import random

import msgspec


class Unavailable(Exception):
    """A server that is away or refuses everybody. Transient: the record is innocent.

    `advice` is what to do about it, where that is known; the exception's text is both. `summary` follows the server's
    name in a headline.
    """

    def __init__(self, problem: str = "", advice: str = "", *, summary: str = "is away") -> None:
        super().__init__(f"{problem}. {advice}" if advice else problem)
        self.problem = problem
        self.advice = advice
        self.summary = summary


class Expelled(Unavailable):
    """The client gave its membership of a group up for good: what it held is lost; a new client may join again."""


class Poisonous(Exception):
    """A record that no number of attempts can turn into a file. `code`: the kind of fault, for programs."""

    def __init__(self, reason: str, code: str | None = None) -> None:
        super().__init__(reason)
        self.code = code


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on trying again. Times in seconds."""

    max_attempts: int = 5
    base_seconds: float = 0.2
    cap_seconds: float = 10.0


class Again(msgspec.Struct, frozen=True):
    """Try again after `seconds`; `counted` says whether the try that failed was one of the record's attempts."""

    seconds: float
    counted: bool


class Park(msgspec.Struct, frozen=True):
    """Give the record up: dead letter, status failed, with this reason."""

    reason: str


def decide(
    policy: RetryPolicy, error: BaseException, attempt: int, failures: int, jitter: random.Random
) -> Again | Park:
    """What follows a failed try.

    `attempt` is the record's attempt that failed, from 1; `failures` how often in a row it has failed by now, from 1
    (outages included): the delay grows by it.
    """
    if isinstance(error, Poisonous):
        return Park(reason=str(error))
    if isinstance(error, Unavailable):
        return Again(backoff_seconds(policy, failures, jitter), counted=False)
    if attempt >= policy.max_attempts:
        return Park(reason=f"{type(error).__name__}: {error} (after {attempt} attempts)")
    return Again(backoff_seconds(policy, failures, jitter), counted=True)


def backoff_seconds(policy: RetryPolicy, failures: int, jitter: random.Random) -> float:
    """A delay between 0 and base × 2^(failures-1), at most the cap."""
    ceiling = min(policy.cap_seconds, policy.base_seconds * 2 ** min(failures - 1, 32))
    return jitter.uniform(0, ceiling)


class Breaker:
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

    def failed(self, reason: str) -> bool:
        """Note a failure; whether it opened the breaker just now."""
        self._failures += 1
        self.reason = reason
        return self._failures == self._threshold

    def succeeded(self) -> bool:
        """Note a success; whether it closed the breaker just now."""
        was_open = self.open
        self._failures = 0
        self.reason = None
        return was_open

    def delay(self, jitter: random.Random) -> float:
        """How long to wait before the next probe, in seconds; at least a half of the backoff, so that it is a pause."""
        over = max(1, self._failures - self._threshold + 1)
        ceiling = min(self._policy.cap_seconds, self._policy.base_seconds * 2 ** min(over, 32))
        return jitter.uniform(ceiling / 2, ceiling)
