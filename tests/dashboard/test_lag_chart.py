"""The chart of lag: a gap is a gap, a zone is the viewer's, and a hundred lines are not a hundred lines."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from dashboard.components.lag_chart import LINES_MAX, figure_of
from filemill.adapters.postgres_reads_group import LagHistory

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PERIOD = timedelta(minutes=5)
VIENNA = ZoneInfo("Europe/Vienna")


def test_unknown_is_a_gap_and_not_zero() -> None:
    moments = [NOW - timedelta(seconds=4), NOW - timedelta(seconds=2), NOW]
    figure = figure_of(LagHistory(moments, {0: [1, None, 3]}, None), PERIOD, NOW, VIENNA)
    (trace,) = figure["data"]
    assert np.isnan(trace["y"][1])
    assert trace["connectgaps"] is False
    assert trace["x"][2] == np.datetime64("2026-11-22T13:00:00.000")


def test_the_axis_spans_the_period_though_there_are_no_samples() -> None:
    figure = figure_of(LagHistory([], {}, None), PERIOD, NOW, VIENNA)
    assert figure["data"][0]["y"] == []
    assert figure["layout"]["annotations"][0]["text"] == "no samples in this period"
    assert figure_of(None, PERIOD, NOW, VIENNA)["layout"]["annotations"][0]["text"] == "not known yet"
    first, last = figure["layout"]["xaxis"]["range"]
    assert last - first == PERIOD


def test_of_many_partitions_the_greatest_are_drawn_and_the_rest_summed() -> None:
    history = LagHistory([NOW], {partition: [partition] for partition in range(30)}, None)
    traces = figure_of(history, PERIOD, NOW, VIENNA)["data"]
    assert len(traces) == LINES_MAX
    assert [trace["name"] for trace in traces][-2:] == ["P29", "21 others"]
    assert traces[-1]["y"][0] == sum(range(21))
