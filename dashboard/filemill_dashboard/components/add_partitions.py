"""More partitions for the topic of requests: what it would give, and what cannot be taken back."""

import streamlit as st

from filemill.errors import Unavailable
from filemill.queries.group import Overview
from filemill.services.audit import record
from filemill_dashboard.components.notices import Notice, show_inline_notice
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.views.advice import even_shares

ACTOR = "page"
PARTITIONS_MAX = 256
_OUTCOME = "partitions_outcome"


def add_partitions(data: PageData, overview: Overview | None) -> None:
    """Draw the menu; it says why where it cannot be used now."""
    lags = overview.lags if overview else None
    group = overview.group if overview else None
    now = len(lags.partitions) if lags else 0
    why_not = "" if 0 < now < PARTITIONS_MAX else "How many there are is not known" if not now else "There are plenty"
    with st.popover("Add partitions", disabled=bool(why_not), help=why_not or None, key="partitions-menu"):
        topic = data.services.settings.topic_create
        least = min(now + 1, PARTITIONS_MAX)
        proposed = min(max(least, 2 * now), PARTITIONS_MAX)
        label = f"Partitions of {topic}, {now} now"
        total = st.number_input(label, least, PARTITIONS_MAX, proposed, key="partitions")
        members = len(group.members) if group else 0
        if members and total:
            st.caption(
                f"{members} workers would have {'/'.join(str(one) for one in even_shares(members, int(total)))}."
            )
        st.caption("What is on the topic stays where it is. Kafka cannot take partitions away again.")
        st.button(
            f"Have {total} partitions",
            key="partitions-go",
            type="primary",
            width="stretch",
            disabled=bool(why_not),
            on_click=_add,
            args=(data, topic, now, int(total or 0)),
        )
        show_inline_notice("partitions-outcome", st.session_state.get(_OUTCOME))


def _add(data: PageData, topic: str, before: int, total: int) -> None:
    try:
        data.services.kafka.add_partitions(topic, total)
        with data.services.engine.begin() as connection:
            record(connection, ACTOR, "topic.partitions", {"topic": topic, "before": before, "count": total})
    except (Unavailable, ValueError) as error:
        st.session_state[_OUTCOME] = Notice("bad", "Not done", str(error))
    else:
        st.session_state[_OUTCOME] = Notice("good", f"{topic} has {total} partitions now")
