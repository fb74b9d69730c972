"""Plots of a run with its faults marked, and of repetitions with their spread."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from filemill.lab.plotly_text import plain

PALETTE = px.colors.qualitative.Safe
TEMPLATE = "plotly_white"
FAULT = "rgba(200, 60, 60, 0.16)"
FAULT_LINE = "rgb(200, 60, 60)"
# With more faults, their names would overlap; only the marks are drawn.
NAMED_MAX = 16
# Space above the plot for slanted names.
NAMES_PIXELS = 110
TIME = "time (UTC)"


def timeline(assignments: pd.DataFrame, faults: pd.DataFrame) -> go.Figure:
    """One band per partition, coloured by owner; white means no owner."""
    shown = assignments.assign(
        partition="partition " + assignments["partition"].astype(str), worker=_plain(assignments["worker"])
    )
    figure = px.timeline(
        shown.sort_values("began"),
        x_start="began",
        x_end="ended",
        y="partition",
        color="worker",
        color_discrete_sequence=PALETTE,
        hover_data=["epoch"],
        category_orders={"partition": sorted(shown["partition"].unique())},
    )
    return _finish(figure, faults, "Partition owners", "")


def throughput(frame: pd.DataFrame, faults: pd.DataFrame) -> go.Figure:
    """Files per second, stacked by worker."""
    shown = frame.assign(worker=_plain(frame["worker"]))
    figure = px.bar(shown, x="at", y="files_per_second", color="worker", color_discrete_sequence=PALETTE)
    figure.update_layout(bargap=0)
    return _finish(figure, faults, "Results per second", "files per second")


def unfinished(frame: pd.DataFrame, faults: pd.DataFrame) -> go.Figure:
    """Unfinished requests over time."""
    return _finish(px.area(frame, x="at", y="unfinished"), faults, "Unfinished requests", "requests")


def lag(frame: pd.DataFrame, faults: pd.DataFrame) -> go.Figure:
    """Uncommitted records, one line per partition."""
    shown = frame.assign(partition="P" + frame["partition"].astype(str))
    figure = px.line(shown, x="at", y="lag", color="partition", color_discrete_sequence=PALETTE)
    return _finish(figure, faults, "Lag per partition", "records")


def latencies(frame: pd.DataFrame) -> go.Figure:
    """Percentiles per stage."""
    tidy = frame.melt(id_vars=["stage", "files"], var_name="percentile", value_name="seconds")
    figure = px.bar(tidy, x="stage", y="seconds", color="percentile", barmode="group", color_discrete_sequence=PALETTE)
    figure.update_layout(title="Latency per stage", template=TEMPLATE, xaxis_title=None, yaxis_title="seconds")
    return figure


def spread(
    frame: pd.DataFrame, x: str, y: str, color: str, *, title: str, labels: Mapping[str, str], facet: str | None = None
) -> go.Figure:
    """Medians of the repetitions at each x, connected by a line, with bars from minimum to maximum."""
    by = [name for name in (facet, color, x) if name is not None]
    shown = frame.groupby(by)[y].agg(["median", "min", "max"]).reset_index()
    shown = shown.assign(up=shown["max"] - shown["median"], down=shown["median"] - shown["min"])
    figure = px.line(
        shown.assign(**{name: _plain(shown[name]) for name in (facet, color) if name is not None}),
        x=x,
        y="median",
        error_y="up",
        error_y_minus="down",
        color=color,
        facet_col=facet,
        markers=True,
        color_discrete_sequence=PALETTE,
        labels={**labels, "median": labels.get(y, y)},
        title=f"{title}: median of the repetitions, with minimum and maximum",
        template=TEMPLATE,
    )
    figure.update_yaxes(rangemode="tozero")
    return figure


def unfinished_by_fault(curves: pd.DataFrame, lengths: Mapping[str, float]) -> go.Figure:
    """One small plot per fault: `unfinished` by `second` since it began. `lengths` are the durations in seconds."""
    names = list(lengths)
    figure = px.area(
        curves,
        x="second",
        y="unfinished",
        facet_col="fault",
        facet_col_wrap=4,
        facet_row_spacing=0.09,
        category_orders={"fault": names},
        labels={"second": "seconds", "unfinished": "requests"},
        title="Unfinished requests by seconds since the fault began",
        template=TEMPLATE,
        height=150 * -(-len(names) // 4) + 150,
    )
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    rows = -(-len(names) // 4)
    for index, name in enumerate(names):
        cell = {"row": rows - index // 4, "col": index % 4 + 1}  # plotly counts wrapped rows from the bottom
        figure.add_vrect(x0=0, x1=max(lengths[name], 0.1), fillcolor=FAULT, line_width=0, **cell)
    return figure


def _plain(column: "pd.Series[Any]") -> "pd.Series[str]":
    """The escaped values of a column."""
    return column.astype(str).map(plain)


def _finish(figure: go.Figure, faults: pd.DataFrame, title: str, unit: str) -> go.Figure:
    show_names = "fault" in faults and len(faults) <= NAMED_MAX
    for row in faults.itertuples():
        figure.add_vrect(x0=row.began, x1=row.ended, fillcolor=FAULT, line_width=0)
        # A line, because a very short fault would be invisible.
        figure.add_vline(x=row.began, line_width=1, line_dash="dot", line_color=FAULT_LINE)
        if show_names:
            figure.add_annotation(
                x=row.began,
                y=1,
                yref="paper",
                text=plain(str(row.fault)),
                textangle=-30,
                showarrow=False,
                xanchor="left",
                yanchor="bottom",
                font={"size": 10, "color": FAULT_LINE},
            )
    space = NAMES_PIXELS if show_names and len(faults) else 60
    figure.update_layout(
        title={"text": title, "y": 0.97, "yanchor": "top"},
        template=TEMPLATE,
        xaxis_title=TIME,
        yaxis_title=unit,
        height=300 + space,
        margin={"t": space},
    )
    return figure
