"""Lines that others can cause as often as they like."""

from filemill.config.logging import LogRateLimit


def test_so_many_lines_in_a_period_and_the_next_one_counts_those_left_out() -> None:
    now = [0.0]
    budget = LogRateLimit(2, 60, clock=lambda: now[0])
    assert [budget.admit() for _ in range(5)] == [0, 0, None, None, None]
    now[0] = 61
    assert [budget.admit() for _ in range(3)] == [3, 0, None]
