"""The rebalance timeline: a band per partition in the colour of its owner. Gaps are times without an owner."""

from typing import Any

from filemill.domain.files import epoch_milliseconds
from filemill.queries.history import OwnershipHistory
from filemill_dashboard.components.chart import ALIGNED, Annotation, Figure, chart
from filemill_dashboard.views.rebalances import PartitionOwnership

PARTITION_PIXELS = 26
# More labels than this overlap in the highest chart.
LABELS_MAX = 20
AROUND_PIXELS = 62
HEIGHT_MAX_PIXELS = 420
# Workers with their own colour and legend entry: those with the most bands.
WORKERS_MAX = 20
NAME_CHARACTERS = 40
# Bands of all other workers together: the latest.
OTHERS_MAX = 500


def rebalance_chart(
    ownership: OwnershipHistory | None,
    bands: list[PartitionOwnership],
    period_seconds: int,
    annotations: list[Annotation],
    *,
    stale: bool,
) -> None:
    """Draw the timeline."""
    partitions = sorted({band.partition for band in bands})
    height = min(HEIGHT_MAX_PIXELS, AROUND_PIXELS + PARTITION_PIXELS * max(3, len(partitions)))
    until = epoch_milliseconds(ownership.until) if ownership else 1000 * period_seconds
    labelled = partitions[:: -(-len(partitions) // LABELS_MAX) or 1]
    layout = {
        "xaxis": {"range": [until - 1000 * period_seconds, until]},
        "yaxis": {
            "range": [max(partitions, default=2) + 0.6, -0.6],
            "tickvals": labelled,
            "ticktext": [f"P{partition} " for partition in labelled],
            "showgrid": False,
        },
        "hovermode": "closest",
        "margin": ALIGNED,
        "uirevision": "rebalances",
    }
    by_worker: dict[str, list[PartitionOwnership]] = {}
    for band in bands:
        by_worker.setdefault(band.worker, []).append(band)
    often = sorted(by_worker, key=lambda worker: (-len(by_worker[worker]), worker))
    others = [band for worker in often[WORKERS_MAX:] for band in by_worker[worker]]
    width = 13 if len(partitions) <= 12 else 6
    traces = [_trace(_short(worker), by_worker[worker], width) for worker in sorted(often[:WORKERS_MAX])]
    if others:
        latest = sorted(others, key=lambda band: band.start)[-OTHERS_MAX:]
        traces.append(_trace(f"{len(often) - WORKERS_MAX:,} others", latest, width))
    message = "" if bands else "no data yet" if ownership is None else "no worker reported partitions in this period"
    alt = "Partition owners over time"
    chart("rebalances", Figure(layout, traces, annotations), height=height, alt=alt, message=message, stale=stale)


def _short(worker: str) -> str:
    return worker if len(worker) <= NAME_CHARACTERS else f"{worker[:NAME_CHARACTERS]}…"


def _trace(worker: str, bands: list[PartitionOwnership], width: int) -> dict[str, Any]:
    x: list[int | None] = []
    y: list[int | None] = []
    text: list[str] = []
    for band in bands:
        details = [
            *(["from the group monitor's samples"] if band.sampled else []),
            *([f"epoch {band.epoch}"] if band.epoch is not None else []),
            *([f"ended: {band.end_reason}"] if band.end_reason else []),
        ]
        x += [epoch_milliseconds(band.start), epoch_milliseconds(band.end), None]
        y += [band.partition, band.partition, None]
        text += [", ".join(details)] * 3
    return {
        "type": "scatter",
        "mode": "lines",
        "name": worker,
        "x": x,
        "y": y,
        "text": text,
        "connectgaps": False,
        "line": {"width": width},
        "hovertemplate": "P%{y} %{text}",
    }
