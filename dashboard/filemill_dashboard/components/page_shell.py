"""The frame of every page: the top bar with server health and data age, the banners, and the refresh.

The body of a page is a fragment. Controls outside it, such as a form, are not redrawn by a refresh. One refresh is one
run of the fragment, so all its data is of one moment. The top bar in the browser requests each refresh, so a hidden
tab causes no load.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import streamlit as st

from filemill.domain.permissions import Permission
from filemill.errors import Forbidden, Unavailable
from filemill.runtime.journal import JournalEntry
from filemill.runtime.supervisor_client import CommandRejected
from filemill.services.faults import end_fault
from filemill_dashboard.components import status_style
from filemill_dashboard.components.assets import component
from filemill_dashboard.components.job_progress import show_deletions, show_job
from filemill_dashboard.components.notices import Notice, server_notices, show_notices
from filemill_dashboard.components.role_facts import relay_status
from filemill_dashboard.components.view_url import select_option
from filemill_dashboard.state import page_data
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.health import LABELS, ServerHealth, ServerName
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.state.principals import page_principal, why_not
from filemill_dashboard.state.services import Services
from filemill_dashboard.views.visibility import Visibility

# The refresh intervals that the viewer can select, in seconds.
REFRESH: dict[str, float | None] = {"Off": None, "2 s": 2.0, "5 s": 5.0, "10 s": 10.0}
REFRESH_DEFAULT = "2 s"

Body = Callable[[PageData, CachedValue[Snapshot]], None]


def render_page(
    title: str,
    body: Body,
    *,
    above: Callable[[], None] | None = None,
    permission: Permission = Permission.VIEW,
    section: str | None = None,
) -> None:
    """Draw a page: the top bar, then `above` (run only on interaction), then `body` (run at each refresh).

    `section` is the entry of the navigation that a page without an entry belongs to.

    A viewer without the permission sees neither, and nothing that the page draws below.
    """
    status_style.apply()
    with st.container(key="bar", horizontal=True, vertical_alignment="center", gap="small"):
        # Screen readers need a heading; for others the navigation shows the current page.
        st.html(f'<div class="brand">filemill</div><h1 class="visually-hidden">{title}</h1>', width="content")
        with st.container(key="nav", horizontal=True, gap=None):
            for page in _pages().values():
                if page.visibility == "visible":
                    st.page_link(page, width="content")
        status = st.container(key="status-slot")
        selected = select_option("Refresh", list(REFRESH), REFRESH_DEFAULT, "refresh")
    interval_seconds = REFRESH[selected]
    # At the bottom of the window: a banner or a job that comes or goes moves no row under the pointer.
    dock = st.container(key="dock", gap="small")
    if above is not None and not why_not(permission):
        above()

    @st.fragment
    def refreshed() -> None:
        _navigate()
        if page_principal().role is None:
            st.rerun(scope="app")  # `app.py` says that the session has ended
        data = page_data.current()
        snapshot, health, visibility = data.snapshot(), data.health(), data.visibility()
        faults = data.active_faults()

        def show_status() -> None:
            with status:
                _show_status(snapshot, health, faults, data.services, visibility, interval_seconds, section)

        reason = why_not(permission)
        with _around(show_status, first=whole_run):
            with dock:
                _show_dock(data, server_notices(snapshot, health, faults), reason)
            if not reason:
                body(data, snapshot)

    whole_run = True
    refreshed()
    whole_run = False
    if why_not(permission):
        st.stop()  # what a page draws below its body, such as a drawer, needs the permission too


@contextlib.contextmanager
def _around(show_status: Callable[[], None], *, first: bool) -> Iterator[None]:
    """Draw the status before a page that is new, and after one that is refreshed.

    Drawn before, its age would be that of the new data while the old data is still shown.
    """
    if first:
        show_status()
    try:
        yield
    finally:
        if not first:
            show_status()


def _show_dock(data: PageData, notices: list[Notice], reason: str) -> None:
    """Draw the banners, and what runs in the background. `reason`: why the viewer may not see the page, if so."""
    refused = [Notice("warn", "Not allowed", reason)] if reason else []
    if why_not(Permission.INJECT_FAULTS):
        notices = [replace(notice, action="") for notice in notices]
    show_notices("banners", [*refused, *notices], on_action=lambda target: _end_fault(data, target))
    show_job(data.jobs)
    show_deletions(data.deletions)


def section_heading(text: str) -> None:
    """Draw the heading of a section."""
    st.html(f'<h2 class="section">{text}</h2>', width="content")


def navigate_to(page: str, **parameters: str) -> None:
    """Navigate to another page with the next run. For use in callbacks, which cannot navigate themselves."""
    st.session_state["goto"] = (page, parameters)


def page_link(page: str, label: str, **parameters: str) -> None:
    """Draw a link to another page."""
    st.page_link(_pages()[page], label=label, query_params=parameters, width="content")


def _pages() -> dict[str, Any]:
    pages: dict[str, Any] = st.session_state.get("pages", {})
    return pages


def _navigate() -> None:
    target = st.session_state.pop("goto", None)
    if target is not None:
        page, parameters = target
        st.switch_page(_pages()[page], query_params=parameters)


def _show_status(
    snapshot: CachedValue[Snapshot],
    health: dict[ServerName, CachedValue[ServerHealth]],
    faults: Mapping[str, JournalEntry],
    services: Services,
    visibility: Visibility,
    interval_seconds: float | None,
    section: str | None,
) -> None:
    servers = [_server(LABELS[name], reading, faults.get(name)) for name, reading in health.items()]
    if services.relay_state is not None:
        tone, detail = relay_status(services.relay_state, services.relay_summary, visibility)
        servers.append({"name": "Relay", "tone": tone, "detail": detail})
    # The top bar requests each refresh: not while its tab is hidden, and not before the previous one has arrived.
    component("topbar")(
        key="topbar",
        data={
            "servers": servers,
            "age": snapshot.age_seconds,
            "interval_seconds": interval_seconds,
            "section": section,
            "refresh_id": time.monotonic(),
        },
        on_refresh_change=lambda: None,
    )


def _end_fault(data: PageData, target: str) -> None:
    stack = data.stack()
    try:
        if stack is not None:
            end_fault(data.services.engine, stack, target, page_principal())
    except (Unavailable, Forbidden, CommandRejected) as error:
        st.toast(f"The fault was not ended: {error}")


def _server(label: str, reading: CachedValue[ServerHealth], fault: JournalEntry | None) -> dict[str, Any]:
    health = reading.value
    if fault is not None:
        return {"name": label, "tone": "bad", "detail": f"a fault is active: {fault.name}"}
    if health is None:
        return {"name": label, "tone": "none", "detail": "checking …"}
    detail = f"{health.address}, {health.took_ms:g} ms" if health.ok else f"{health.address}: {health.problem}"
    return {"name": label, "tone": "good" if health.ok else "bad", "detail": detail}
