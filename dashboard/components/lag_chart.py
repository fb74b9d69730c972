"""Lag per partition over time."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import streamlit as st

from filemill.adapters.postgres_reads_group import LagHistory

HEIGHT_PIXELS = 300
# Beyond this many lines none can be told from another: the rest are drawn as one.
LINES_MAX = 10
LEAST_TOP = 5.0
# Plotly refuses a figure without any.
_NO_LINE = {"type": "scatter", "x": [], "y": [], "showlegend": False}


def lag_chart(history: LagHistory | None, period_seconds: int, as_of: datetime | None) -> None:
    """Draw it over the whole period, so that a time without samples shows as one."""
    figure = figure_of(history, timedelta(seconds=period_seconds), as_of or datetime.now(UTC), _viewers_zone())
    st.plotly_chart(
        figure,
        key="lag",
        height=HEIGHT_PIXELS,
        config={"displayModeBar": False},
        alt="Lag per partition over the chosen period",
    )


def figure_of(history: LagHistory | None, period: timedelta, until: datetime, zone: ZoneInfo) -> dict[str, Any]:
    """The figure for plotly, times in the viewer's zone."""
    series = _series(history) if history else {}
    moments = np.array([_local(moment, zone) for moment in history.moments] if history else [], "datetime64[ms]")
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": moments,
            "y": np.array([np.nan if lag is None else lag for lag in lags]),
            "connectgaps": False,
            "line": {"width": 1.6},
            "hovertemplate": "%{y:,}",
        }
        for name, lags in series.items()
    ]
    axis = {"showline": False, "zeroline": False, "fixedrange": True, "automargin": True}
    layout = {
        "margin": {"l": 0, "r": 6, "t": 6, "b": 0},
        "hovermode": "x unified",
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.12, "x": 0, "xanchor": "left", "yanchor": "top"},
        "xaxis": {**axis, "range": [_local(until - period, zone), _local(until, zone)], "showgrid": False},
        "yaxis": {**axis, "range": [0, _top(series)], "tickformat": ",d", "nticks": 6},
        "uirevision": "lag",
        "annotations": [] if traces else [_nothing(history)],
    }
    if not traces:
        layout["yaxis"] = {**axis, "range": [0, 1], "showticklabels": False}
    return {"data": traces or [_NO_LINE], "layout": layout}


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


def _nothing(history: LagHistory | None) -> dict[str, Any]:
    text = "no samples in this period" if history is not None else "not known yet"
    return {"text": text, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "opacity": 0.6}


def _viewers_zone() -> ZoneInfo:
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def _local(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)
