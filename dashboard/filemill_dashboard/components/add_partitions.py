"""The dialog that adds partitions to the request topic. It previews the assignment; the topic's name confirms it."""

import streamlit as st

from filemill.domain.permissions import Permission
from filemill.errors import Forbidden, Unavailable
from filemill.queries.overview import Overview
from filemill.services.partitions import CannotAddPartitions
from filemill.services.partitions import add_partitions as add_topic_partitions
from filemill_dashboard.components.confirmation import confirmation
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.principals import page_principal, why_not
from filemill_dashboard.views.advice import even_shares

PARTITIONS_MAX = 256
_REQUESTED = "partitions_requested"


def add_partitions_button(overview: Overview | None) -> None:
    """Draw the button. If it is disabled, its tooltip gives the reason."""
    now = len(overview.lags.partitions) if overview and overview.lags else 0
    reason = None if now else "The number of partitions is not known"
    reason = reason or (f"The maximum is {PARTITIONS_MAX}" if now >= PARTITIONS_MAX else None)
    reason = reason or why_not(Permission.ADD_PARTITIONS) or None
    st.button(
        "Add partitions …",
        key="partitions-open",
        disabled=reason is not None,
        help=reason or "Kafka cannot remove partitions; the topic's name confirms the change",
        on_click=_open_dialog,
        args=(overview,),
    )


def _open_dialog(overview: Overview) -> None:
    st.session_state.update({_REQUESTED: overview, "open_dialog": True})


def add_partitions_dialog(data: PageData) -> bool:
    """Open the dialog if it was requested, and return whether it was."""
    overview: Overview | None = st.session_state.get(_REQUESTED)
    if overview is None or overview.lags is None:
        return False
    topic, now = data.services.settings.topic_create, len(overview.lags.partitions)
    members = len(overview.group.members) if overview.group else 0
    total = 0

    def about() -> str:
        nonlocal total
        proposed = min(2 * now, PARTITIONS_MAX)
        total = int(st.number_input("New number of partitions", now + 1, PARTITIONS_MAX, proposed, key="partitions"))
        lines = [Fact("Topic", topic, mono=True), Fact("Partitions", f"{now} → {total}")]
        if members:
            before, after = ("/".join(map(str, even_shares(members, count))) for count in (now, total))
            lines.append(Fact("Per worker", f"{before} → {after}"))
        facts("partitions-change", lines)
        st.caption("Existing records stay in their partitions. Kafka cannot reduce the number of partitions.")
        return f"Increase {topic} from {now} to {total}"

    def act() -> str | None:
        try:
            add_topic_partitions(data.services.engine, data.services.kafka, topic, total, page_principal())
        except (Forbidden, Unavailable, CannotAddPartitions) as error:
            return str(error)
        st.toast(f"`{topic}` now has {total} partitions")
        return None

    def close() -> None:
        st.session_state.pop(_REQUESTED, None)

    confirmation(
        "partitions", "Add partitions", about, act, close, failure="Partitions not added", name=topic, danger=True
    )
    return True
