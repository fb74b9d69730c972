"""Lag per partition over time."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from filemill.domain.files import epoch_milliseconds
from filemill.queries.group import LagHistory
from filemill_dashboard.components.chart import ALIGNED, Annotation, Figure, chart

HEIGHT_PIXELS = 310
# More lines than this cannot be told apart: the rest are drawn as one sum.
LINES_MAX = 10
TOP_MIN = 5.0


def lag_chart(
    history: LagHistory | None,
    period_seconds: int,
    as_of: datetime | None,
    annotations: Sequence[Annotation] = (),
    *,
    stale: bool,
) -> None:
    """Draw the whole period, so that a time without samples is visible as a gap."""
    figure = figure_of(history, timedelta(seconds=period_seconds), as_of or datetime.now(UTC))
    message = "" if figure.traces else "no samples in this period" if history is not None else "no data yet"
    alt = "Lag per partition over the selected period"
    figure = replace(figure, annotations=list(annotations))
    chart("lag", figure, height=HEIGHT_PIXELS, alt=alt, message=message, stale=stale)


def figure_of(history: LagHistory | None, period: timedelta, until: datetime) -> Figure:
    """Return a figure with a line per partition."""
    series = _series(history) if history else {}
    moments = [epoch_milliseconds(moment) for moment in history.moments] if history else []
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": moments,
            "y": lags,
            "connectgaps": False,
            "line": {"width": 1.6},
            "hovertemplate": "%{y:,}",
        }
        for name, lags in series.items()
    ]
    layout = {
        "xaxis": {"range": [epoch_milliseconds(until - period), epoch_milliseconds(until)]},
        "yaxis": {"range": [0, _top(series)], "tickformat": ",d", "nticks": 6, "showticklabels": bool(traces)},
        "margin": ALIGNED,
        "uirevision": "lag",
    }
    return Figure(layout, traces)


def _series(history: LagHistory) -> dict[str, list[int | None]]:
    """Return a line per partition. Above LINES_MAX: those with the greatest current lag, and the sum of the others."""
    lags = history.lags
    if len(lags) <= LINES_MAX:
        return {f"P{partition}": line for partition, line in lags.items()}
    latest = sorted(lags, key=lambda partition: -next((lag for lag in reversed(lags[partition]) if lag is not None), 0))
    shown, others = sorted(latest[: LINES_MAX - 1]), latest[LINES_MAX - 1 :]
    rest = [
        None if any(value is None for value in column) else sum(value or 0 for value in column)
        for column in zip(*(lags[partition] for partition in others), strict=True)
    ]
    return {**{f"P{partition}": lags[partition] for partition in shown}, f"{len(others)} others": rest}


def _top(series: dict[str, list[int | None]]) -> float:
    """Return the top of the axis: above the greatest lag and at least TOP_MIN, to avoid fractions of records."""
    peak = max((lag for lags in series.values() for lag in lags if lag is not None), default=0)
    return max(TOP_MIN, peak * 1.06)
