"""The rate limit of log lines that clients can cause."""

from filemill.config.logging import LogRateLimit


def test_the_first_line_of_a_period_counts_the_suppressed_ones() -> None:
    now = [0.0]
    limit = LogRateLimit(2, 60, clock=lambda: now[0])
    assert [limit.admit() for _ in range(5)] == [0, 0, None, None, None]
    now[0] = 61
    assert [limit.admit() for _ in range(3)] == [3, 0, None]
