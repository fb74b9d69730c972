"""What to do with a record whose processing failed: try again, and when; or park it in the dead letters.

Errors come in two kinds, told apart by type. `Unavailable`: the thing needed is away (S3, the broker); it says nothing
about the record, so it costs the record no attempt, and it goes on being tried. Everything else may be the record's
own fault: it has a bounded number of attempts. Both back off exponentially with full jitter
(M. Brooker, "Exponential Backoff And Jitter", 2015), so that a thousand records do not return at the same moment.
"""

import random

import msgspec

from filemill.errors import DeadLetterCode, PermanentError, Unavailable


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on trying again. Times in seconds."""

    max_attempts: int = 5
    base_seconds: float = 0.2
    cap_seconds: float = 10.0


class Retry(msgspec.Struct, frozen=True):
    """Try again after `seconds`; `counted` says whether the try that failed was one of the record's attempts."""

    seconds: float
    counted: bool


class Reject(msgspec.Struct, frozen=True):
    """The record becomes a dead letter, and its file fails with this reason."""

    reason: str
    code: DeadLetterCode


def decide(
    policy: RetryPolicy, error: BaseException, attempt: int, failures: int, jitter: random.Random
) -> Retry | Reject:
    """What follows a failed try.

    `attempt` is the record's attempt that failed, from 1; `failures` how often in a row it has failed by now, from 1
    (outages included): the delay grows by it.
    """
    if isinstance(error, PermanentError):
        return Reject(str(error), error.code)
    if isinstance(error, Unavailable):
        return Retry(backoff_seconds(policy, failures, jitter), counted=False)
    if attempt >= policy.max_attempts:
        reason = f"{type(error).__name__}: {error} (after {attempt} attempts)"
        return Reject(reason, DeadLetterCode.ATTEMPTS_EXHAUSTED)
    return Retry(backoff_seconds(policy, failures, jitter), counted=True)


def backoff_seconds(policy: RetryPolicy, failures: int, jitter: random.Random) -> float:
    """A delay between 0 and base × 2^(failures-1), at most the cap."""
    ceiling = min(policy.cap_seconds, policy.base_seconds * 2 ** min(failures - 1, 32))
    return jitter.uniform(0, ceiling)
