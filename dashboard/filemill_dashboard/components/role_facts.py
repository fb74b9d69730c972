"""The processes that lead: relay, status sync and group monitor."""

from filemill.queries.group import LeaseState
from filemill.queries.overview import Overview
from filemill_dashboard.components.facts import Fact
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.views.visibility import Visibility
from filemill_workers.outbox_relay import RelayState

ROLES = {"relay": "Outbox relay", "sync": "Status sync", "monitor": "Group monitor"}
RELAY_TONES = {RelayState.WAITING: "warn", RelayState.ACTIVE: "good", RelayState.STANDBY: "good"}


def role_facts(data: PageData, overview: Overview | None, visibility: Visibility) -> list[Fact]:
    """Return who holds each lease, and the state of the relay in this process."""
    state = data.services.relay_state
    here = []
    if state is not None:
        tone, text = relay_status(state, data.services.relay_summary, visibility)
        here = [Fact("Relay in this process", text, tone="warn" if tone == "warn" else None)]
    if overview is None:
        return [Fact(label, None) for label in ROLES.values()] + here
    return [_role(label, overview.leases.get(name), visibility) for name, label in ROLES.items()] + here


def relay_status(state: RelayState, summary: str, visibility: Visibility) -> tuple[str, str]:
    """Return the tone and the state of the relay in this process. It cannot publish while a server is unreachable."""
    if visibility.cause and state is not RelayState.WAITING:
        return "warn", f"waiting: {visibility.obstacle}"
    return RELAY_TONES.get(state, "none"), summary


def _role(label: str, lease: LeaseState | None, visibility: Visibility) -> Fact:
    if lease is not None and lease.held:
        return Fact(label, lease.holder, tone="good")
    if not visibility.settled:  # it could not renew its lease, but may run
        return Fact(label, f"unknown: {visibility.obstacle or 'a server was unreachable'}", tone="none")
    return Fact(label, "none" if lease is None else f"none (last: {lease.holder})", tone="warn")
