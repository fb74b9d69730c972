"""Lengths of time as people read them."""

import pytest

from filemill_dashboard.views.durations import rounded


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (21_599.9, "6 h"),
        (21_600.1, "6 h"),
        (23_500.0, "7 h"),
        (30.4, "30 s"),
        (119.9, "2 min"),
        (7199.0, "2 h"),
        (0.4, "400 ms"),
    ],
)
def test_a_measured_length_is_rounded_to_the_nearest(seconds: float, text: str) -> None:
    assert rounded(seconds) == text
