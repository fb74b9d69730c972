"""The retry rule for a record whose processing failed: retry it after a delay, or make it a dead letter. Pure.

`Unavailable` means that a server is unreachable. It says nothing about the record, so the record is retried without
limit. `RetryLater` is a handler's own wish, and is not counted either. `PermanentError` makes it a dead letter at once.
Every other error may be caused by the record: it has a bounded number of attempts. Delays grow exponentially with full
jitter (M. Brooker, "Exponential Backoff And Jitter", 2015), so that a thousand records are not retried at the same
time.
"""

import random

import msgspec

from filemill.errors import AttemptFailed, DeadLetterCode, PermanentError, RetryLater, Unavailable


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of retries. Times in seconds."""

    max_attempts: int = 5
    base_seconds: float = 0.2
    cap_seconds: float = 10.0


class Retry(msgspec.Struct, frozen=True):
    """Retry after `seconds`. `counted`: whether the failure counts as one of the record's attempts."""

    seconds: float
    counted: bool


class Reject(msgspec.Struct, frozen=True):
    """The record becomes a dead letter, and its file fails with this reason."""

    reason: str
    code: DeadLetterCode


def decide(
    policy: RetryPolicy, error: BaseException, attempt: int, failures: int, jitter: random.Random
) -> Retry | Reject:
    """What follows a failure.

    `attempt`: the attempt that failed, from 1. `failures`: the number of failures in a row, from 1, including outages;
    the delay grows with it.
    """
    if isinstance(error, PermanentError):
        return Reject(str(error), error.code)
    if isinstance(error, Unavailable):
        return Retry(backoff_seconds(policy, failures, jitter), counted=False)
    if isinstance(error, RetryLater):
        return Retry(max(0.0, error.seconds), counted=False)
    if attempt >= policy.max_attempts:
        if isinstance(error, AttemptFailed):
            return Reject(f"{error} (after {attempt} attempt{'s' * (attempt > 1)})", error.code)
        reason = f"{type(error).__name__}: {error} (after {attempt} attempts)"
        return Reject(reason, DeadLetterCode.ATTEMPTS_EXHAUSTED)
    return Retry(backoff_seconds(policy, failures, jitter), counted=True)


def backoff_seconds(policy: RetryPolicy, failures: int, jitter: random.Random) -> float:
    """A delay between 0 and base × 2^(failures-1), at most the cap."""
    ceiling = min(policy.cap_seconds, policy.base_seconds * 2 ** min(failures - 1, 32))
    return jitter.uniform(0, ceiling)
