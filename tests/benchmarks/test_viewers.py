"""Latency counts of viewers, and their targets."""

import time

import pytest

from benchmarks.viewers import holds
from benchmarks.work.viewers import LatencyCounts


def test_latency_counts_from_the_intended_moment() -> None:
    tally = LatencyCounts(period=0.5)
    now = time.perf_counter()
    for ago in (0.1, 0.2, 0.3, 0.6):
        tally.note(now - ago)
    figures = tally.figures()
    assert (figures["answers"], figures["late"], figures["wrong"]) == (4, 1, 0)
    assert figures["p50_ms"] == pytest.approx(250, abs=20)


@pytest.mark.parametrize(
    ("line", "holding"),
    [
        ({"p95_ms": 9.0, "most_ms": 10.0}, True),
        ({"p95_ms": 11.0, "most_ms": 10.0}, False),
        ({"p95_ms": 9.0, "most_ms": 10.0, "wrong": 1.0}, False),
        ({"p95_ms": 9.0, "most_ms": 10.0, "late": 2.0}, False),
    ],
)
def test_a_target_holds_only_without_wrong_and_late_answers(line: dict[str, float], holding: bool) -> None:
    assert holds(line) is holding
