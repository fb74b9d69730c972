"""A plotly figure in the colours of the theme, kept from one refresh to the next."""

from dataclasses import asdict, dataclass, field
from typing import Any

from filemill.lab.plotly_text import plain_figure
from filemill_dashboard.asgi.scripts import PLOTLY_PATH
from filemill_dashboard.components.assets import component

# For charts that stand above each other, so that a moment is at one place in all: room for labels on both sides.
ALIGNED = {"l": 40, "r": 40, "t": 30, "b": 0}


@dataclass(frozen=True)
class Annotation:
    """Something that somebody did: a line through the chart, which says what when it is pointed at.

    What lasted, as a fault does, has an end too and is a bar.
    """

    at_ms: float
    text: str
    until_ms: float | None = None


@dataclass(frozen=True)
class Figure:
    """What plotly is to draw: traces and layout, with times as milliseconds since 1970, or `elapsed`: seconds.

    Fonts, colours, grid and legend are the theme's unless the layout says otherwise; `xaxis.range` must be there.
    """

    layout: dict[str, Any]
    traces: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)
    elapsed: bool = False


def chart(key: str, figure: Figure, *, height: int, alt: str, message: str = "", stale: bool = False) -> None:
    """Draw it, `height` pixels high from the start; `message` stands in its middle; an `old` one is paler.

    All texts are shown as they are: what looks like markup in them is none.
    """
    component("chart", isolated=False)(
        key=key,
        data={
            "figure": plain_figure({"data": figure.traces, "layout": figure.layout}),
            "marks": plain_figure([asdict(mark) for mark in figure.annotations]),
            "elapsed": figure.elapsed,
            "height": height,
            "alt": alt,
            "message": message,
            "old": stale,
            "script": PLOTLY_PATH,
        },
    )
