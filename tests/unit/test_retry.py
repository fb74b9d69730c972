"""The retry rule: retry with a delay, or dead-letter; and the breaker's state."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemill.domain.circuit_breaker import BreakerState
from filemill.domain.retry import Reject, Retry, RetryPolicy, backoff_seconds, decide
from filemill.errors import AttemptFailed, DeadLetterCode, PermanentError, RetryLater, Unavailable

POLICY = RetryPolicy(max_attempts=3, base_seconds=0.2, cap_seconds=10.0)


class _Greatest(random.Random):
    """Jitter that always gives the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_an_outage_costs_the_record_no_attempt_however_long_it_lasts(attempt: int, failures: int) -> None:
    verdict = decide(POLICY, Unavailable("S3 is unreachable"), attempt, failures, random.Random(1))
    assert isinstance(verdict, Retry)
    assert not verdict.counted


def test_a_permanent_error_dead_letters_at_once() -> None:
    assert decide(POLICY, PermanentError("x", DeadLetterCode.INVALID_MESSAGE), 1, 1, random.Random(1)) == Reject(
        "x", DeadLetterCode.INVALID_MESSAGE
    )


def test_other_errors_have_a_limited_number_of_attempts() -> None:
    verdicts = [decide(POLICY, ValueError("boom"), attempt, attempt, random.Random(1)) for attempt in (1, 2, 3, 4)]
    assert [isinstance(verdict, Reject) for verdict in verdicts] == [False, False, True, True]
    assert all(verdict.counted for verdict in verdicts if isinstance(verdict, Retry))


def test_a_rejection_contains_the_error_and_the_number_of_attempts() -> None:
    verdict = decide(POLICY, ValueError("boom"), 3, 3, random.Random(1))
    assert isinstance(verdict, Reject)
    for part in ("ValueError", "boom", "3 attempts"):
        assert part in verdict.reason


def test_a_handler_that_asks_for_a_later_attempt_loses_none() -> None:
    assert decide(POLICY, RetryLater(30.0), 3, 9, random.Random(1)) == Retry(30.0, counted=False)


def test_the_dead_letter_after_the_last_attempt_has_the_code_of_its_failure() -> None:
    error = AttemptFailed("it took too long", DeadLetterCode.DEADLINE_EXCEEDED)
    assert isinstance(decide(POLICY, error, 2, 2, random.Random(1)), Retry)
    rejected = decide(POLICY, error, 3, 3, random.Random(1))
    assert rejected == Reject("it took too long (after 3 attempts)", DeadLetterCode.DEADLINE_EXCEEDED)


def test_outages_do_not_use_up_the_attempts_of_later_errors() -> None:
    verdict = decide(POLICY, ValueError("boom"), attempt=1, failures=500, jitter=random.Random(1))
    assert isinstance(verdict, Retry)


def test_the_delay_doubles_up_to_the_cap() -> None:
    ceilings = [backoff_seconds(POLICY, failures, _Greatest()) for failures in range(1, 9)]
    assert ceilings == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


@given(st.integers(1, 10**9), st.integers(0, 2**32))
def test_a_delay_is_never_negative_and_never_above_the_cap(failures: int, seed: int) -> None:
    assert 0 <= backoff_seconds(POLICY, failures, random.Random(seed)) <= POLICY.cap_seconds


def test_a_thousand_records_are_not_retried_at_the_same_time() -> None:
    jitter = random.Random(1)
    delays = [backoff_seconds(POLICY, 7, jitter) for _ in range(1000)]
    assert len(set(delays)) > 990
    for lower in range(10):
        assert 50 < sum(lower <= delay < lower + 1 for delay in delays) < 170


def test_a_breaker_opens_once_after_consecutive_failures() -> None:
    breaker = BreakerState(POLICY, threshold=3)
    assert [breaker.record_failure(f"unreachable {number}") for number in range(5)] == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert breaker.open
    assert breaker.reason == "unreachable 4"


def test_one_success_closes_a_breaker() -> None:
    breaker = BreakerState(POLICY, threshold=3)
    for _ in range(7):
        breaker.record_failure("unreachable")
    assert breaker.record_success()
    assert not breaker.record_success()
    assert not breaker.open
    assert breaker.reason is None
    assert [breaker.record_failure("unreachable") for _ in range(3)] == [False, False, True]


def test_a_success_resets_the_failure_count() -> None:
    breaker = BreakerState(POLICY, threshold=3)
    for _ in range(10):
        breaker.record_failure("unreachable")
        breaker.record_failure("unreachable")
        breaker.record_success()
    assert not breaker.open


@given(st.integers(1, 10**5), st.integers(0, 2**32))
def test_the_probe_delay_is_bounded(failures: int, seed: int) -> None:
    breaker = BreakerState(POLICY, threshold=3)
    breaker._failures = failures
    assert POLICY.base_seconds <= breaker.probe_delay(random.Random(seed)) <= POLICY.cap_seconds
