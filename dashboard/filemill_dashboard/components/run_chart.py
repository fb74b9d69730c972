"""Lab runs over time, one overlaid on the other, each relative to its own start."""

from collections.abc import Sequence
from typing import Any

from filemill.lab.runs import RunSeries
from filemill_dashboard.components.chart import Annotation, Figure, chart

HEIGHT_PIXELS = 300
SERIES = ["Results per second", "Unfinished requests"]


def course_chart(runs: Sequence[tuple[str, RunSeries | None]], series: str, *, stale: bool) -> None:
    """Draw `series` of each run, with the faults of the first run."""
    traces: list[dict[str, Any]] = []
    for index, (name, course) in enumerate(runs):
        line = course.lines.get(series) if course is not None else None
        if line is not None:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"{'AB'[index]} · {name}",
                    "x": line.seconds,
                    "y": line.values,
                    "line": {"width": 1.6, "dash": "solid" if index == 0 else "dot"},
                    "hovertemplate": "%{y:,.6~g}",
                }
            )
    first = runs[0][1] if runs else None
    seconds = max((course.seconds for _, course in runs if course is not None), default=0.0)
    marks = [Annotation(one.began, one.text, one.ended) for one in first.faults] if first is not None else []
    layout = {
        "xaxis": {"range": [0, max(1.0, seconds)], "ticksuffix": " s"},
        "yaxis": {"rangemode": "tozero", "nticks": 6, "showticklabels": bool(traces)},
        "uirevision": f"{series}-{'-'.join(name for name, _ in runs)}",
    }
    if any(course is None for _, course in runs):
        message = "" if traces else "no data yet"
    else:
        message = "" if traces else "this series was not recorded"
    alt = f"{series} of {' and '.join(name for name, _ in runs) or 'no run'}"
    figure = Figure(layout, traces, marks, elapsed=True)
    chart("course", figure, height=HEIGHT_PIXELS, alt=alt, message=message, stale=stale)
