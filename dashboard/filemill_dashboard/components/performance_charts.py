"""Charts of finished files per second and of latency percentiles."""

from datetime import datetime, timedelta
from typing import Any, Literal

from filemill.domain.files import epoch_milliseconds
from filemill.queries.performance import Percentiles, Performance, PerformanceRow
from filemill_dashboard.components.chart import Annotation, Figure, chart

HEIGHT_PIXELS = 250
Stage = Literal["wait", "processing", "whole"]


def finished_chart(
    performance: Performance | None, period_seconds: int, annotations: list[Annotation], *, stale: bool
) -> None:
    """Draw completed and failed files per second."""
    traces = []
    for name, colour in (("completed", "#2c9f67"), ("failed", "#d1434b")):
        line = _line(performance, lambda share, name=name: _rate(share, name, performance), nothing=0.0)
        traces.append({**line, "name": name, "line": {"width": 1.6, "color": colour}, "hovertemplate": "%{y:.2f} /s"})
    figure = Figure(_layout(performance, period_seconds, " /s"), traces if performance else [], annotations)
    chart(
        "ended",
        figure,
        height=HEIGHT_PIXELS,
        alt="Finished files per second",
        message=_message(performance),
        stale=stale,
    )


def latency_chart(
    performance: Performance | None, stage: Stage, period_seconds: int, annotations: list[Annotation], *, stale: bool
) -> None:
    """Draw the latency percentiles of one stage."""
    traces = []
    for name in ("p50", "p95", "p99"):
        line = _line(performance, lambda share, name=name: getattr(percentiles_of(share, stage), name))
        traces.append({**line, "name": name, "hovertemplate": "%{y:.3f} s"})
    figure = Figure(_layout(performance, period_seconds, " s"), traces if performance else [], annotations)
    chart("times", figure, height=HEIGHT_PIXELS, alt="Latency of files", message=_message(performance), stale=stale)


def percentiles_of(share: PerformanceRow, stage: Stage) -> Percentiles:
    """Return the percentiles of a stage."""
    return {"wait": share.wait, "processing": share.processing, "whole": share.end_to_end}[stage]


def _rate(share: PerformanceRow, name: str, performance: Performance | None) -> float | None:
    return None if performance is None else getattr(share, name) / performance.bin_seconds


def _line(
    performance: Performance | None,
    value: Any,  # noqa: ANN401 - a function of a share
    nothing: float | None = None,
) -> dict[str, Any]:
    """Return one point per bin, at its end, from the first bin with a finished file.

    The value of an empty bin is `nothing`: 0 for rates, None (a gap) for latencies.
    """
    if performance is None:
        return {"type": "scatter", "mode": "lines", "x": [], "y": []}
    known = {share.key: share for share in performance.bins if isinstance(share.key, datetime)}
    moments, values = [], []
    if known:
        moment, width = min(known), timedelta(seconds=performance.bin_seconds)
        while moment + width <= performance.as_of or moment in known:
            share = known.get(moment)
            moments.append(epoch_milliseconds(moment + width))
            values.append(nothing if share is None else value(share))
            moment += width
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "marker": {"size": 3},
        "x": moments,
        "y": values,
        "connectgaps": False,
        "line": {"width": 1.6},
    }


def _layout(performance: Performance | None, period_seconds: int, unit: str) -> dict[str, Any]:
    until = epoch_milliseconds(performance.as_of) if performance else 1000 * period_seconds
    return {
        "xaxis": {"range": [until - 1000 * period_seconds, until]},
        "yaxis": {
            "nticks": 5,
            "showticklabels": bool(performance and performance.bins),
            "rangemode": "tozero",
            "ticksuffix": unit,
        },
        "uirevision": "performance",
    }


def _message(performance: Performance | None) -> str:
    return "no data yet" if performance is None else "" if performance.bins else "no file finished in this period"
