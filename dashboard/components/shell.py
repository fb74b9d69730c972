"""What is around every page: the bar with the servers' health and the age of the data, banners, and the refresh.

A page's body is a fragment that Streamlit runs again by itself; what stands outside (the bar's controls, a form) stays
as it is. One refresh is one run of the fragment: everything in it is of one moment.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st

from dashboard import data as data_module
from dashboard.components import look
from dashboard.components.assets import component
from dashboard.components.trouble import server_notices, show_notices
from dashboard.components.view_url import choice
from dashboard.data import Data, Snapshot
from dashboard.health import LABELS, ServerHealth, ServerName
from dashboard.readings import Reading

# Seconds between refreshes, as the viewer may choose them.
REFRESH: dict[str, float | None] = {"Off": None, "2 s": 2.0, "5 s": 5.0, "10 s": 10.0}
REFRESH_DEFAULT = "2 s"

_BRAND = '<div class="brand">filemill</div>'

Body = Callable[[Data, Reading[Snapshot]], None]


def show(body: Body, *, above: Callable[[], None] | None = None) -> None:
    """A page: the bar, then `above` (run only when the viewer acts), then `body`, refreshed."""
    look.apply()
    with st.container(key="bar", horizontal=True, vertical_alignment="center", gap="small"):
        st.html(_BRAND, width="content")
        for page in st.session_state.get("pages", []):
            st.page_link(page, width="content")
        status = st.container(key="status-slot")
        chosen = choice("Refresh", list(REFRESH), REFRESH_DEFAULT, "refresh")
    every = REFRESH[chosen]
    troubles = st.container(key="trouble-slot")
    if above is not None:
        above()

    @st.fragment(run_every=every)
    def refreshed() -> None:
        data = data_module.current()
        snapshot, health = data.snapshot(), data.health()
        with status:
            _show_status(snapshot, health, data.services.relay_state, every)
        with troubles:
            show_notices("troubles", server_notices(snapshot, health))
        body(data, snapshot)

    refreshed()


def _show_status(
    snapshot: Reading[Snapshot],
    health: dict[ServerName, Reading[ServerHealth]],
    relay_state: str | None,
    every: float | None,
) -> None:
    servers = [_server(LABELS[name], reading) for name, reading in health.items()]
    if relay_state is not None:
        waiting = relay_state.startswith("waiting")
        tone = "warn" if waiting else "good" if relay_state in {"active", "standby"} else "none"
        servers.append({"name": "Relay", "tone": tone, "detail": relay_state})
    component("topbar")(key="topbar", data={"servers": servers, "age": snapshot.age_seconds, "every": every})


def _server(label: str, reading: Reading[ServerHealth]) -> dict[str, Any]:
    health = reading.value
    if health is None:
        return {"name": label, "tone": "none", "detail": "asking …"}
    detail = f"{health.address}, {health.took_ms:g} ms" if health.ok else f"{health.address}: {health.problem}"
    return {"name": label, "tone": "good" if health.ok else "bad", "detail": detail}
