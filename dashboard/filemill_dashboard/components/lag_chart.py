"""Lag per partition over time."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from filemill.domain.files import epoch_milliseconds
from filemill.queries.group import LagHistory
from filemill_dashboard.components.chart import ALIGNED, Annotation, Figure, chart

HEIGHT_PIXELS = 310
# Beyond this many lines none can be told from another: the rest are drawn as one.
LINES_MAX = 10
LEAST_TOP = 5.0


def lag_chart(
    history: LagHistory | None,
    period_seconds: int,
    as_of: datetime | None,
    annotations: Sequence[Annotation] = (),
    *,
    stale: bool,
) -> None:
    """Draw it over the whole period, so that a time without samples shows as one."""
    figure = figure_of(history, timedelta(seconds=period_seconds), as_of or datetime.now(UTC))
    message = "" if figure.traces else "no samples in this period" if history is not None else "not known yet"
    alt = "Lag per partition over the chosen period"
    figure = replace(figure, marks=list(annotations))
    chart("lag", figure, height=HEIGHT_PIXELS, alt=alt, message=message, stale=stale)


def figure_of(history: LagHistory | None, period: timedelta, until: datetime) -> Figure:
    """A line per partition."""
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
    """A line per partition; with very many, the greatest of now and the sum of the others."""
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
    """A little above the greatest lag, and never so low that the axis would count in fractions of a record."""
    peak = max((lag for lags in series.values() for lag in lags if lag is not None), default=0)
    return max(LEAST_TOP, peak * 1.06)
