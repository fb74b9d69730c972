"""Plots of a run."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.rounds import Sample
from benchmarks.summary import ArmSummary

MEGABYTE = 2**20
WORKERS, SERVERS, MEMORY = "#4477aa", "#ccbb44", "#66ccee"
ROW_PIXELS = 34


def rates(found: Sequence[ArmSummary], samples: Sequence[Sample]) -> go.Figure:
    """The median and the rounds of each arm, the CPU per file, and the memory of the largest process."""
    shown = sorted(found, key=lambda line: line.median)
    names = [line.arm for line in shown]
    titles = ("files per second (log)", "CPU microseconds per file", "memory of the largest worker, MB")
    figure = make_subplots(rows=1, cols=3, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    figure.add_bar(
        y=names, x=[line.median for line in shown], orientation="h", name="median", marker_color=WORKERS, row=1, col=1
    )
    figure.add_scatter(
        y=[sample.arm for sample in samples],
        x=[sample.measured.rate for sample in samples],
        mode="markers",
        name="a round",
        marker={"color": "#222222", "size": 6, "symbol": "line-ns-open"},
        row=1,
        col=1,
    )
    for values, name, colour in (
        ([line.worker_cpu_us for line in shown], "workers' CPU", WORKERS),
        ([line.server_cpu_us for line in shown], "servers' CPU", SERVERS),
    ):
        figure.add_bar(y=names, x=values, orientation="h", name=name, marker_color=colour, row=1, col=2)
    memory = [line.rss_bytes / MEGABYTE for line in shown]
    figure.add_bar(y=names, x=memory, orientation="h", name="memory", marker_color=MEMORY, row=1, col=3)
    figure.update_xaxes(type="log", row=1, col=1)
    figure.update_layout(
        barmode="stack", template="plotly_white", height=160 + ROW_PIXELS * len(names), legend_orientation="h"
    )
    return figure
