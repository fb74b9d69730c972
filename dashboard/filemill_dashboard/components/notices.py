"""Banners: what is the matter, where, and what to do. Calm ones: the page below them goes on standing."""

from dataclasses import asdict, dataclass

import structlog

from filemill_dashboard.components.assets import component
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.health import LABELS, ServerHealth, ServerName
from filemill_dashboard.state.page_data import Snapshot

log = structlog.get_logger("page")


@dataclass(frozen=True)
class Notice:
    """One banner. `tone` is good, warn or bad."""

    tone: str
    title: str
    text: str = ""


def show_notices(key: str, notices: list[Notice]) -> None:
    """Draw banners, or nothing; mounted either way, so that one that comes or goes moves as little as can be."""
    component("notice")(key=key, data={"notices": [asdict(notice) for notice in notices]})


def show_inline_notice(key: str, notice: Notice | None) -> None:
    """One notice without a box, in a line that is there also when there is nothing to say: nothing below it moves."""
    component("notice")(key=key, data={"notices": [asdict(notice)] if notice else [], "line": True})


def server_notices(
    snapshot: CachedValue[Snapshot], health: dict[ServerName, CachedValue[ServerHealth]]
) -> list[Notice]:
    """One banner for each server that is away or not set up."""
    notices = []
    database = health["postgres"].value
    accepting = database is None or database.ok
    for server, reading in health.items():
        state = reading.value
        if state is not None and not state.ok:
            set_up = state.consequence is None
            what = f"{LABELS[server]} {state.problem if set_up else state.summary}"
            parts = [f"At {state.address}." if set_up else f"{state.problem}."]
            if state.consequence and (accepting or server == "postgres"):
                parts.append(state.consequence)
            parts.append(state.advice or "")
            if server == "postgres":
                parts.append(_stale_hint(snapshot))
            notices.append(Notice("bad", what, " ".join(part for part in parts if part)))
    if snapshot.error is not None and accepting:
        notices.append(
            Notice("bad", "PostgreSQL does not answer", f"{snapshot.error}. {_stale_hint(snapshot)}".strip())
        )
    return notices


def show_bug(error: Exception) -> bool:
    """The last net, for Streamlit's `on_script_error`: a sentence instead of a trace, which goes to the log."""
    log.error("A page failed", exc_info=error)
    show_notices(
        "bug", [Notice("bad", "This page failed", "It is a bug: the dashboard's log says more. Reload to try again.")]
    )
    return True


def _stale_hint(snapshot: CachedValue[Snapshot]) -> str:
    return "" if snapshot.age_seconds is None else "What you see below is the last that was known."
