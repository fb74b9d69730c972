"""A plotly figure in the colours of the theme. It stays mounted between refreshes."""

from dataclasses import asdict, dataclass, field
from typing import Any

from filemill.lab.plotly_text import plain_figure
from filemill_dashboard.components.assets import component
from filemill_dashboard.rest.scripts import PLOTLY_PATH

# Equal margins for charts that stand above each other, so that their time axes line up.
ALIGNED = {"l": 40, "r": 40, "t": 30, "b": 0}


@dataclass(frozen=True)
class Annotation:
    """An event on a chart: a vertical line whose text is shown on hover. With `until_ms`, it is a bar.

    Times are milliseconds since 1970, or seconds in an `elapsed` figure.
    """

    at_ms: float
    text: str
    until_ms: float | None = None


@dataclass(frozen=True)
class Figure:
    """Traces and layout for plotly. Times are milliseconds since 1970, or seconds if `elapsed`.

    Fonts, colours, grid and legend come from the theme unless the layout sets them. `xaxis.range` is required.
    """

    layout: dict[str, Any]
    traces: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)
    elapsed: bool = False


def chart(key: str, figure: Figure, *, height: int, alt: str, message: str = "", stale: bool = False) -> None:
    """Draw the figure, `height` pixels high. `message` is shown in its centre; a `stale` chart is dimmed.

    All texts are shown unchanged, without markup.
    """
    component("chart", isolated=False)(
        key=key,
        data={
            "figure": plain_figure({"data": figure.traces, "layout": figure.layout}),
            "annotations": plain_figure([asdict(annotation) for annotation in figure.annotations]),
            "elapsed": figure.elapsed,
            "height": height,
            "alt": alt,
            "message": message,
            "stale": stale,
            "script": PLOTLY_PATH,
        },
    )
