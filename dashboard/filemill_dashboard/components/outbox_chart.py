"""The outbox over time: the age of its oldest request and the number of waiting requests."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from filemill.domain.files import epoch_milliseconds
from filemill.queries.outbox import OutboxHistory
from filemill_dashboard.components.chart import ALIGNED, Annotation, Figure, chart

HEIGHT_PIXELS = 190
# Minimum ranges of the axes, so that a healthy outbox is not drawn in fractions.
SECONDS_MIN = 1.0
ROWS_MIN = 10


def outbox_chart(
    history: OutboxHistory | None,
    period_seconds: int,
    as_of: datetime | None,
    annotations: Sequence[Annotation],
    *,
    stale: bool,
) -> None:
    """Draw the whole period."""
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
        age = {"name": "Age of oldest (left)", "y": history.ages, "hovertemplate": "%{y:.1f} s"}
        rows = {"name": "Waiting requests (right)", "y": history.depths, "yaxis": "y3", "hovertemplate": "%{y:,}"}
        traces = [{**shared, **age}, {**shared, **rows, "line": {"width": 1.6, "dash": "dot"}}]
    ages = [age for age in history.ages if age is not None] if history else []
    depths = [depth for depth in history.depths if depth is not None] if history else []
    top = _round(max(depths, default=0))
    layout = {
        "xaxis": {"range": [epoch_milliseconds(until - timedelta(seconds=period_seconds)), epoch_milliseconds(until)]},
        "yaxis": {
            "range": [0, 1.06 * max(ages, default=0) + SECONDS_MIN],
            "nticks": 4,
            "ticksuffix": " s",
            "showticklabels": known,
        },
        "yaxis3": {
            "range": [0, 1.06 * top],
            "tickmode": "array",  # plotly would align them with the other axis, at fractions of a request
            "tickvals": [0, top // 2, top],
            "tickformat": ",d",
            "showticklabels": known,
        },
        "margin": ALIGNED,
        "uirevision": "outbox",
    }
    message = "" if known else "no data yet" if history is None else "no samples in this period"
    alt = "Age of the oldest request in the outbox, and number of waiting requests"
    figure = Figure(layout, traces, list(annotations))
    chart("outbox", figure, height=HEIGHT_PIXELS, alt=alt, message=message, stale=stale)


def _round(rows: int) -> int:
    """Return the next round number that can be halved."""
    size = ROWS_MIN
    while True:
        for times in (1, 2, 4, 6, 8):
            if times * size >= rows:
                return times * size
        size *= 10
