"""Banners: what happened, where, and what to do. The page below them stays usable."""

from dataclasses import asdict, dataclass

import structlog

from filemill_dashboard.components.assets import component
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.health import LABELS, HealthCode, ServerHealth, ServerName
from filemill_dashboard.state.page_data import Snapshot

log = structlog.get_logger("page")


@dataclass(frozen=True)
class Notice:
    """One banner. `tone` is good, warn or bad."""

    tone: str
    title: str
    text: str = ""


def show_notices(key: str, notices: list[Notice]) -> None:
    """Draw the banners. The component is mounted even without any, so that a new banner moves little of the page."""
    component("notices")(key=key, data={"notices": [asdict(notice) for notice in notices]})


def show_inline_notice(key: str, notice: Notice | None) -> None:
    """Draw one notice without a box, on a line that is always present, so that nothing below it moves."""
    component("notices")(key=key, data={"notices": [asdict(notice)] if notice else [], "inline": True})


def server_notices(
    snapshot: CachedValue[Snapshot], health: dict[ServerName, CachedValue[ServerHealth]]
) -> list[Notice]:
    """Return a banner for each server that is unreachable or not set up."""
    notices = []
    database = health["postgres"].value
    accepting = database is None or database.ok
    for server, reading in health.items():
        state = reading.value
        if state is not None and not state.ok:
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
