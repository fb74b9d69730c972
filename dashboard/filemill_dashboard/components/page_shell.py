"""What is around every page: the bar with the servers' health and the age of the data, banners, and the refresh.

A page's body is a fragment; what stands outside (the bar's controls, a form) stays as it is. One refresh is one run of
the fragment: everything in it is of one moment. The bar in the browser asks for it, so that a hidden tab costs nothing.
"""

import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from filemill_dashboard.components import status_style
from filemill_dashboard.components.assets import component
from filemill_dashboard.components.job_progress import show_job
from filemill_dashboard.components.notices import server_notices, show_notices
from filemill_dashboard.components.view_url import select_option
from filemill_dashboard.state import data as data_module
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.health import LABELS, ServerHealth, ServerName
from filemill_dashboard.state.page_data import PageData, Snapshot

# Seconds between refreshes, as the viewer may choose them.
REFRESH: dict[str, float | None] = {"Off": None, "2 s": 2.0, "5 s": 5.0, "10 s": 10.0}
REFRESH_DEFAULT = "2 s"

_BRAND = '<div class="brand">filemill</div>'

Body = Callable[[PageData, CachedValue[Snapshot]], None]


def render_page(body: Body, *, above: Callable[[], None] | None = None) -> None:
    """A page: the bar, then `above` (run only when the viewer acts), then `body`, refreshed."""
    status_style.apply()
    with st.container(key="bar", horizontal=True, vertical_alignment="center", gap="small"):
        st.html(_BRAND, width="content")
        with st.container(key="nav", horizontal=True, gap=None):
            for page in _pages().values():
                if page.visibility == "visible":
                    st.page_link(page, width="content")
        status = st.container(key="status-slot")
        chosen = select_option("Refresh", list(REFRESH), REFRESH_DEFAULT, "refresh")
    every = REFRESH[chosen]
    troubles = st.container(key="trouble-slot")
    if above is not None:
        above()

    @st.fragment
    def refreshed() -> None:
        _navigate()
        data = data_module.current()
        snapshot, health = data.snapshot(), data.health()
        with status:
            _show_status(snapshot, health, data.services.relay_state, every)
        with troubles:
            show_notices("troubles", server_notices(snapshot, health))
            show_job(data.jobs)
        body(data, snapshot)

    refreshed()


def navigate_to(page: str, **parameters: str) -> None:
    """Have the viewer led to another page by the next run: for callbacks, which cannot do so themselves."""
    st.session_state["goto"] = (page, parameters)


def page_link(page: str, label: str, **parameters: str) -> None:
    """A link to another page."""
    st.page_link(_pages()[page], label=label, query_params=parameters, width="content")


def _pages() -> dict[str, Any]:
    pages: dict[str, Any] = st.session_state.get("pages", {})
    return pages


def _navigate() -> None:
    wanted = st.session_state.pop("goto", None)
    if wanted is not None:
        page, parameters = wanted
        st.switch_page(_pages()[page], query_params=parameters)


def _show_status(
    snapshot: CachedValue[Snapshot],
    health: dict[ServerName, CachedValue[ServerHealth]],
    relay_state: str | None,
    every: float | None,
) -> None:
    servers = [_server(LABELS[name], reading) for name, reading in health.items()]
    if relay_state is not None:
        waiting = relay_state.startswith("waiting")
        tone = "warn" if waiting else "good" if relay_state in {"active", "standby"} else "none"
        servers.append({"name": "Relay", "tone": tone, "detail": relay_state})
    # The bar asks for each refresh itself: not while its tab is hidden, and never for one before it has the last.
    component("topbar")(
        key="topbar",
        data={"servers": servers, "age": snapshot.age_seconds, "every": every, "turn": time.monotonic()},
        on_tick_change=lambda: None,
    )


def _server(label: str, reading: CachedValue[ServerHealth]) -> dict[str, Any]:
    health = reading.value
    if health is None:
        return {"name": label, "tone": "none", "detail": "asking …"}
    detail = f"{health.address}, {health.took_ms:g} ms" if health.ok else f"{health.address}: {health.problem}"
    return {"name": label, "tone": "good" if health.ok else "bad", "detail": detail}
