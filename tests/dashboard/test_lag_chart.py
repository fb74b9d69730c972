"""The lag chart: gaps stay gaps, and only the greatest of many partitions have their own line."""

from datetime import UTC, datetime, timedelta

from filemill.queries.group import LagHistory
from filemill_dashboard.components.lag_chart import LINES_MAX, figure_of

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PERIOD = timedelta(minutes=5)


def test_an_unknown_lag_is_a_gap_and_not_zero() -> None:
    moments = [NOW - timedelta(seconds=4), NOW - timedelta(seconds=2), NOW]
    (trace,) = figure_of(LagHistory(moments, {0: [1, None, 3]}, None), PERIOD, NOW).traces
    assert trace["y"] == [1, None, 3]
    assert trace["connectgaps"] is False
    assert trace["x"][2] == int(NOW.timestamp() * 1000)


def test_the_axis_covers_the_period_without_samples() -> None:
    for history in (LagHistory([], {}, None), None):
        figure = figure_of(history, PERIOD, NOW)
        assert figure.traces == []
        first, last = figure.layout["xaxis"]["range"]
        assert last - first == PERIOD.total_seconds() * 1000


def test_the_axis_has_whole_records() -> None:
    assert figure_of(LagHistory([NOW], {0: [1]}, None), PERIOD, NOW).layout["yaxis"]["range"] == [0, 5]
    assert figure_of(LagHistory([NOW], {0: [100]}, None), PERIOD, NOW).layout["yaxis"]["range"] == [0, 106]


def test_the_partitions_with_the_greatest_lag_are_drawn_and_the_rest_summed() -> None:
    history = LagHistory([NOW], {partition: [partition] for partition in range(30)}, None)
    traces = figure_of(history, PERIOD, NOW).traces
    assert len(traces) == LINES_MAX
    assert [trace["name"] for trace in traces][-2:] == ["P29", "21 others"]
    assert traces[-1]["y"][0] == sum(range(21))
