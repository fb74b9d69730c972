"""Banners: what happened, where, and what to do. The page below them stays usable."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import streamlit as st
import structlog

from filemill.runtime.fault import FaultCode
from filemill.runtime.journal import JournalEntry
from filemill_dashboard.components.assets import component, only_drawn
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.health import CONSEQUENCES, LABELS, HealthCode, ServerHealth, ServerName
from filemill_dashboard.state.page_data import Snapshot
from filemill_dashboard.views.durations import format_coarse

log = structlog.get_logger("page")


@dataclass(frozen=True)
class Notice:
    """One banner. `tone` is good, warn or bad. `action` is the label of its button; `target` is what it acts on."""

    tone: str
    title: str
    text: str = ""
    action: str = ""
    target: str = ""


def show_notices(key: str, notices: list[Notice], on_action: Callable[[str], None] = lambda _target: None) -> None:
    """Draw the banners. The component is mounted even without any.

    `on_action` gets the target of the banner whose button was pressed.
    """

    def act() -> None:
        sent = st.session_state[key].action
        if sent is None:
            return
        target = only_drawn(key, sent, {notice.target for notice in notices if notice.action})
        if target is not None:
            on_action(target)

    component("notices")(key=key, data={"notices": [asdict(notice) for notice in notices]}, on_action_change=act)


def show_inline_notice(key: str, notice: Notice | None) -> None:
    """Draw one notice without a box, on a line that is always present, so that nothing below it moves."""
    component("notices")(key=key, data={"notices": [asdict(notice)] if notice else [], "inline": True})


def server_notices(
    snapshot: CachedValue[Snapshot],
    health: dict[ServerName, CachedValue[ServerHealth]],
    faults: Mapping[str, JournalEntry] | None = None,
) -> list[Notice]:
    """Return a banner for each server that is unreachable or not set up.

    `faults` are the active faults by server. The banner of such a server names the fault, and its button ends it.
    """
    faults = faults or {}
    notices = []
    database = health["postgres"].value
    accepting = (database is None or database.ok) and "postgres" not in faults
    for server, reading in health.items():
        state = reading.value
        if server in faults:
            notices.append(_fault_notice(server, faults[server], snapshot, accepting=accepting))
        elif state is not None and not state.ok:
            reachable = state.code is not HealthCode.UNREACHABLE
            title = f"{LABELS[server]} {state.problem if reachable else state.summary}"
            parts = [f"At {state.address}." if reachable else _sentence(state.problem)]
            if state.consequence and (accepting or server == "postgres"):
                parts.append(state.consequence)
            parts.append(state.advice or "")
            if server == "postgres":
                parts.append(_stale_hint(snapshot))
            notices.append(Notice("bad", title, " ".join(part for part in parts if part)))
    if snapshot.error is not None and accepting:
        notices.append(
            Notice("bad", "PostgreSQL is unreachable", f"{_sentence(snapshot.error)} {_stale_hint(snapshot)}".strip())
        )
    return notices


def _fault_notice(
    server: ServerName, fault: JournalEntry, snapshot: CachedValue[Snapshot], *, accepting: bool
) -> Notice:
    suspended = fault.code == FaultCode.SERVER_SUSPENDED
    left = fault.began + float(fault.detail.get("seconds", 0.0)) - time.time()
    back = f"It is back in {format_coarse(left)}." if left >= 1 else "It is coming back."
    parts = [f"The fault was injected on this stack. {back}"]
    if accepting or server == "postgres":
        parts.append(CONSEQUENCES[server])
    if server == "postgres":
        parts.append(_stale_hint(snapshot))
    title = f"You {'stopped' if suspended else 'killed'} {LABELS[server]}"
    end = "End now" if left >= 1 else ""
    return Notice("bad", title, " ".join(part for part in parts if part), action=end, target=server)


def show_bug(error: Exception) -> bool:
    """Handle Streamlit's `on_script_error`: show a notice and log the stack trace."""
    log.error("A page failed", exc_info=error)
    show_notices(
        "bug",
        [
            Notice(
                "bad",
                "This page failed",
                "This is a bug. The dashboard's log has the details. Reload the page to retry.",
            )
        ],
    )
    return True


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _stale_hint(snapshot: CachedValue[Snapshot]) -> str:
    return "" if snapshot.age_seconds is None else "Showing the last known data."
