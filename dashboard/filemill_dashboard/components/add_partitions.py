"""The menu that adds partitions to the request topic. It previews the assignment and warns that this is permanent."""

import streamlit as st

from filemill.errors import Unavailable
from filemill.queries.overview import Overview
from filemill.services.partitions import CannotAddPartitions
from filemill.services.partitions import add_partitions as add_topic_partitions
from filemill_dashboard.components.notices import Notice, show_inline_notice
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.views.advice import even_shares

ACTOR = "page"
PARTITIONS_MAX = 256
_OUTCOME = "partitions_outcome"


def add_partitions(data: PageData, overview: Overview | None) -> None:
    """Draw the menu. If it is disabled, its tooltip gives the reason."""
    lags = overview.lags if overview else None
    group = overview.group if overview else None
    now = len(lags.partitions) if lags else 0
    disabled_reason = (
        ""
        if 0 < now < PARTITIONS_MAX
        else "The number of partitions is not known"
        if not now
        else f"The maximum is {PARTITIONS_MAX}"
    )
    with st.popover(
        "Add partitions", disabled=bool(disabled_reason), help=disabled_reason or None, key="partitions-menu"
    ):
        topic = data.services.settings.topic_create
        minimum = min(now + 1, PARTITIONS_MAX)
        proposed = min(max(minimum, 2 * now), PARTITIONS_MAX)
        label = f"Partitions of {topic} (currently {now})"
        total = st.number_input(label, minimum, PARTITIONS_MAX, proposed, key="partitions")
        members = len(group.members) if group else 0
        if members and total:
            shares = "/".join(map(str, even_shares(members, int(total))))
            st.caption(f"Partitions per worker: {shares} for {members} workers.")
        st.caption("Existing records stay in their partitions. Kafka cannot reduce the number of partitions.")
        st.button(
            f"Increase to {total} partitions",
            key="partitions-go",
            type="primary",
            width="stretch",
            disabled=bool(disabled_reason),
            on_click=_add,
            args=(data, topic, int(total or 0)),
        )
        show_inline_notice("partitions-outcome", st.session_state.get(_OUTCOME))


def _add(data: PageData, topic: str, total: int) -> None:
    try:
        add_topic_partitions(data.services.engine, data.services.kafka, topic, total, ACTOR)
    except (Unavailable, CannotAddPartitions) as error:
        st.session_state[_OUTCOME] = Notice("bad", "Partitions not added", str(error))
    else:
        st.session_state[_OUTCOME] = Notice("good", f"{topic} now has {total} partitions")
