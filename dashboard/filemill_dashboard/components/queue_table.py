"""The queues with their backlogs. A selected queue is a filter in the URL."""

from collections.abc import Sequence

import streamlit as st

from filemill.queries.queues import QueueState
from filemill_dashboard.components.grid import Column, TableRow, data_grid

COLUMNS = [
    Column("queue", "Queue"),
    Column("backlog", "Backlog", "number", 88, title="Records that are not committed"),
    Column("progress", "In progress", "number", 96),
    Column("behind", "Behind", "seconds", 84, title="How long the oldest uncommitted record has waited"),
    Column("outbox", "Outbox", "number", 76, title="Requests that are not on Kafka yet"),
    Column("members", "Members", "number", 80, hide_below=560),
    Column("weight", "Weight", "number", 70, hide_below=640, title="Share of a processor's places"),
    Column("topic", "Topic", "mono", 190, hide_below=820),
]


def queue_table(states: Sequence[QueueState] | None, *, stale: bool) -> None:
    """Draw the table. Nothing is drawn if there is only one queue."""
    if states is not None and len(states) == 1:
        return
    data_grid(
        "queues",
        COLUMNS,
        [
            TableRow(
                state.name,
                {
                    "queue": state.name,
                    "backlog": state.backlog,
                    "progress": state.in_progress,
                    "behind": state.behind_seconds,
                    "outbox": state.in_outbox,
                    "members": state.members,
                    "weight": state.weight,
                    "topic": state.topic,
                },
                tone=_tone(state),
                titles={"weight": f"{state.reserved} reserved" if state.reserved else ""},
            )
            for state in states or ()
        ],
        label="Queues",
        empty=("No data yet", "The table appears when the database responds."),
        stale=stale,
        on_open=_filter_files,
    )


def _tone(state: QueueState) -> str | None:
    return "warn" if state.backlog and state.members == 0 else None


def _filter_files(queue: str) -> None:
    st.switch_page("app_pages/files.py", query_params={"queue": queue})
