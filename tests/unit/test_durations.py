"""Durations as text."""

import pytest

from filemill_dashboard.views.durations import format_coarse, format_duration, format_rounded


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (-1.0, "0 ms"),
        (0.85, "850 ms"),
        (9.94, "9.9 s"),
        (119.9, "119 s"),
        (120.0, "2 min"),
        (200_000, "2 d"),
    ],
)
def test_a_duration_has_decimals_only_below_ten_seconds(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_coarse_duration_has_whole_units() -> None:
    assert [format_coarse(seconds) for seconds in (0.0, 1.9, 119.0, 7_300.0)] == ["0 s", "1 s", "119 s", "2 h"]


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
def test_a_measured_duration_is_rounded_to_the_nearest_unit(seconds: float, text: str) -> None:
    assert format_rounded(seconds) == text
