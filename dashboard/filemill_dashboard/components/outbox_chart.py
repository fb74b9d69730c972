"""The outbox over time: how long the oldest request has waited, and how many wait."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from filemill.domain.files import epoch_milliseconds
from filemill.queries.outbox import OutboxHistory
from filemill_dashboard.components.chart import ALIGNED, Annotation, Figure, chart

HEIGHT_PIXELS = 190
# The axes never count in fractions of what a healthy outbox has.
LEAST_SECONDS = 1.0
LEAST_ROWS = 10


def outbox_chart(
    history: OutboxHistory | None,
    period_seconds: int,
    as_of: datetime | None,
    annotations: Sequence[Annotation],
    *,
    stale: bool,
) -> None:
    """Draw it over the whole period."""
    until = as_of or datetime.now(UTC)
    known = history is not None and bool(history.moments)
    traces = []
    if history is not None and known:
        shared = {
            "type": "scatter",
            "mode": "lines",
            "x": [epoch_milliseconds(moment) for moment in history.moments],
            "connectgaps": False,
            "line": {"width": 1.6},
        }
        age = {"name": "Oldest waits (left)", "y": history.ages, "hovertemplate": "%{y:.1f} s"}
        rows = {"name": "Requests that wait (right)", "y": history.depths, "yaxis": "y3", "hovertemplate": "%{y:,}"}
        traces = [{**shared, **age}, {**shared, **rows, "line": {"width": 1.6, "dash": "dot"}}]
    ages = [age for age in history.ages if age is not None] if history else []
    depths = [depth for depth in history.depths if depth is not None] if history else []
    top = _round(max(depths, default=0))
    layout = {
        "xaxis": {"range": [epoch_milliseconds(until - timedelta(seconds=period_seconds)), epoch_milliseconds(until)]},
        "yaxis": {
            "range": [0, 1.06 * max(ages, default=0) + LEAST_SECONDS],
            "nticks": 4,
            "ticksuffix": " s",
            "showticklabels": known,
        },
        "yaxis3": {
            "range": [0, 1.06 * top],
            "tickmode": "array",  # by itself plotly puts them beside the other axis's, at fractions of a request
            "tickvals": [0, top // 2, top],
            "tickformat": ",d",
            "showticklabels": known,
        },
        "margin": ALIGNED,
        "uirevision": "outbox",
    }
    message = "" if known else "not known yet" if history is None else "no samples in this period"
    alt = "Age of the oldest request in the outbox, and how many wait"
    figure = Figure(layout, traces, list(annotations))
    chart("outbox", figure, height=HEIGHT_PIXELS, alt=alt, message=message, stale=stale)


def _round(rows: int) -> int:
    """The next round number that can be halved."""
    size = LEAST_ROWS
    while True:
        for times in (1, 2, 4, 6, 8):
            if times * size >= rows:
                return times * size
        size *= 10
