"""Pictures of a run, each with its faults marked."""

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

PALETTE = px.colors.qualitative.Safe
FAULT = "rgba(200, 60, 60, 0.16)"


def timeline(assignments: pd.DataFrame, faults: pd.DataFrame) -> go.Figure:
    """A band per partition, coloured by its owner: white is nobody's."""
    shown = assignments.assign(partition="partition " + assignments["partition"].astype(str))
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
    return _finish(figure, faults, "Who owned which partition", "")


def throughput(frame: pd.DataFrame, faults: pd.DataFrame) -> go.Figure:
    """Files per second, stacked by worker."""
    figure = px.bar(frame, x="at", y="files_per_second", color="worker", color_discrete_sequence=PALETTE)
    figure.update_layout(bargap=0)
    return _finish(figure, faults, "Results per second", "files/s")


def unseen(frame: pd.DataFrame, faults: pd.DataFrame) -> go.Figure:
    """Requests that nobody can see as ended yet."""
    return _finish(px.area(frame, x="at", y="unseen"), faults, "Asked for, and not yet seen to have ended", "requests")


def lag(frame: pd.DataFrame, faults: pd.DataFrame) -> go.Figure:
    """Records not committed yet, a line a partition."""
    shown = frame.assign(partition="P" + frame["partition"].astype(str))
    figure = px.line(shown, x="at", y="lag", color="partition", color_discrete_sequence=PALETTE)
    return _finish(figure, faults, "Lag per partition", "records")


def latencies(frame: pd.DataFrame) -> go.Figure:
    """Percentiles per stage."""
    tidy = frame.melt(id_vars=["stage", "files"], var_name="percentile", value_name="seconds")
    figure = px.bar(tidy, x="stage", y="seconds", color="percentile", barmode="group", color_discrete_sequence=PALETTE)
    return _finish(figure, None, "Where a file's time goes", "s")


def _finish(figure: go.Figure, faults: pd.DataFrame | None, title: str, unit: str) -> go.Figure:
    if faults is not None:
        for row in faults.itertuples():
            figure.add_vrect(x0=row.began, x1=row.ended, fillcolor=FAULT, line_width=0)
    figure.update_layout(title=title, template="plotly_white", xaxis_title=None, yaxis_title=unit, height=360)
    return figure
