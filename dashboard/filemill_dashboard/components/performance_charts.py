"""How files fared over time: how many ended, and how long they took."""

from datetime import datetime, timedelta
from typing import Any, Literal

from filemill.domain.files import epoch_milliseconds
from filemill.queries.performance import Cut, Performance, Share
from filemill_dashboard.components.chart import Annotation, Figure, chart

HEIGHT_PIXELS = 250
Stage = Literal["wait", "processing", "whole"]


def finished_chart(
    performance: Performance | None, period_seconds: int, annotations: list[Annotation], *, stale: bool
) -> None:
    """Files a second that ended, completed and failed."""
    traces = []
    for name, colour in (("completed", "#2c9f67"), ("failed", "#d1434b")):
        line = _line(performance, lambda share, name=name: _rate(share, name, performance), nothing=0.0)
        traces.append({**line, "name": name, "line": {"width": 1.6, "color": colour}, "hovertemplate": "%{y:.2f} /s"})
    figure = Figure(_layout(performance, period_seconds, " /s"), traces if performance else [], annotations)
    chart(
        "ended",
        figure,
        height=HEIGHT_PIXELS,
        alt="Files that ended, a second",
        message=_message(performance),
        stale=stale,
    )


def latency_chart(
    performance: Performance | None, stage: Stage, period_seconds: int, annotations: list[Annotation], *, stale: bool
) -> None:
    """Percentiles of one stage."""
    traces = []
    for name in ("p50", "p95", "p99"):
        line = _line(performance, lambda share, name=name: getattr(percentiles_of(share, stage), name))
        traces.append({**line, "name": name, "hovertemplate": "%{y:.3f} s"})
    figure = Figure(_layout(performance, period_seconds, " s"), traces if performance else [], annotations)
    chart("times", figure, height=HEIGHT_PIXELS, alt="How long files took", message=_message(performance), stale=stale)


def percentiles_of(share: Share, stage: Stage) -> Cut:
    """The percentiles of a stage."""
    return {"wait": share.wait, "processing": share.processing, "whole": share.whole}[stage]


def _rate(share: Share, name: str, found: Performance | None) -> float | None:
    return None if found is None else getattr(share, name) / found.bin_seconds


def _line(
    found: Performance | None,
    value: Any,  # noqa: ANN401 - a function of a share
    nothing: float | None = None,
) -> dict[str, Any]:
    """A point a bin, at its end, from the first in which something ended.

    One in which nothing did is `nothing`: no files a second, but a gap where it is of times, of which nothing is known.
    """
    if found is None:
        return {"type": "scatter", "mode": "lines", "x": [], "y": []}
    known = {share.key: share for share in found.bins if isinstance(share.key, datetime)}
    moments, values = [], []
    if known:
        moment, width = min(known), timedelta(seconds=found.bin_seconds)
        while moment + width <= found.as_of or moment in known:
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


def _layout(found: Performance | None, period_seconds: int, unit: str) -> dict[str, Any]:
    until = epoch_milliseconds(found.as_of) if found else 1000 * period_seconds
    return {
        "xaxis": {"range": [until - 1000 * period_seconds, until]},
        "yaxis": {"nticks": 5, "showticklabels": bool(found and found.bins), "rangemode": "tozero", "ticksuffix": unit},
        "uirevision": "performance",
    }


def _message(found: Performance | None) -> str:
    return "not known yet" if found is None else "" if found.bins else "nothing ended in this period"
