"""The stages of the pipeline from left to right: accepted, outbox, backlog, in progress, completed or failed."""

from typing import Any

from filemill.domain.files import Status
from filemill.queries.overview import Overview
from filemill_dashboard.components.assets import component
from filemill_dashboard.state.page_data import Snapshot
from filemill_dashboard.views.advice import OUTBOX_DELAY_SECONDS, lag_age, trend
from filemill_dashboard.views.durations import format_coarse, format_duration
from filemill_dashboard.views.visibility import CLEAR, Visibility

# More bars than this cannot be told apart.
PARTITIONS_MAX = 48


def flow_strip(
    snapshot: Snapshot | None,
    *,
    stale: bool,
    readers: int | None = None,
    visibility: Visibility = CLEAR,
    group_known: bool = True,
) -> None:
    """Draw the stages. Without a snapshot, all values are unknown. `readers`: the members that may start records.

    `group_known`: the latest sample of the group describes the present.
    """
    stages = _stages(snapshot, readers, visibility, group_known=group_known)
    component("flow_strip")(key="strip", data={"stages": stages, "stale": stale})


def _stages(
    snapshot: Snapshot | None, readers: int | None, visibility: Visibility, *, group_known: bool
) -> list[dict[str, Any]]:
    overview = snapshot.overview if snapshot else None
    rates = snapshot.rates if snapshot else None
    counts = overview.counts.by_status if overview else None
    outbox = overview.outbox if overview else None
    lags = overview.lags if overview else None
    age = outbox.oldest_age_seconds if outbox else None
    unknown = not visibility.events_known
    window = rates.seconds if rates else 0.0
    return [
        {
            "name": "Accepted",
            "value": overview.counts.accepted if overview else None,
            "note": _per_second(rates.accepted if rates else None, window),
            "title": "All requests that were ever accepted, deleted files included; the ledger has the same number",
        },
        {
            "name": "Outbox",
            "value": outbox.depth if outbox else None,
            "note": "" if outbox is None else "empty" if age is None else f"oldest {format_duration(age)}",
            "tone": "warn" if age is not None and age > OUTBOX_DELAY_SECONDS else None,
            "title": "Accepted requests that are not on Kafka yet",
        },
        {
            "name": "Backlog",
            "value": lags.total if lags else None,
            "note": _per_second(overview.flow.committed, overview.flow.seconds) if overview else "",
            "more": visibility.obstacle
            if unknown
            else _outlook(overview, readers)
            if group_known
            else "not sampled yet",
            "stale": unknown or not group_known,
            "title": "Records that are not committed yet, including those in progress. Below: commits per second, "
            "age of the oldest record, trend of the lag.",
            "partitions": [{"partition": part.partition, "lag": part.lag} for part in lags.partitions[:PARTITIONS_MAX]]
            if lags
            else [],
        },
        {
            "name": "In progress",
            "value": counts[Status.PROCESSING] if counts else None,
            "note": f"{counts[Status.PENDING]:,} pending" if counts else "",
            "stale": unknown,
        },
        {
            "name": "Finished",
            "stale": unknown,
            "ends": [
                {
                    "name": "Completed",
                    "tone": "good",
                    "value": counts[Status.COMPLETED] if counts else None,
                    "note": _per_second(rates.completed if rates else None),
                    "window": _window(window),
                },
                {
                    "name": "Failed",
                    "tone": "bad",
                    "value": counts[Status.FAILED] if counts else None,
                    "note": _per_second(rates.failed if rates else None),
                    "window": _window(window),
                },
            ],
        },
    ]


def _outlook(overview: Overview | None, readers: int | None) -> str:
    """The age of the lag and its trend."""
    lags = overview.lags if overview else None
    if overview is None or lags is None or not lags.total:
        return ""
    parts = [lag_age(lags.behind_seconds), trend(lags.total, overview.flow, readers)]
    return ", ".join(part for part in parts if part)


def _per_second(rate: float | None, seconds: float | None = None) -> str:
    """A rate, and the time over which it is an average."""
    if rate is None:
        return "rate unknown"
    text = (
        f"{rate:,.0f} /s" if rate >= 10 else f"{rate:.1f} /s" if rate >= 0.1 or rate == 0 else f"{rate * 60:.1f} /min"
    )
    return text + _window(seconds)


def _window(seconds: float | None) -> str:
    return f" · {format_coarse(seconds)}" if seconds else ""
