"""Starts and ends of servers and workers of this machine's stack, as entries of timelines. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from filemill.runtime.process_history import ProcessChange, ProcessStep
from filemill_dashboard.views.file_timeline import TimelineEntry
from filemill_dashboard.views.visibility import SERVERS

# Processes that a file needs besides its worker, whose deliveries tell what happened to it.
SHARED_ROLES = frozenset({*SERVERS, "relay", "sync", "monitor", "dashboard"})
ROLES = {"relay": "Relay", "sync": "Status sync", "monitor": "Group monitor", "dashboard": "Dashboard"}


def process_entries(steps: Iterable[ProcessStep]) -> list[TimelineEntry]:
    """An entry for each start and end."""
    return [_entry(step) for step in steps]


def process_summary(step: ProcessStep) -> str:
    """What happened, such as "Kafka restarted"."""
    words = {
        ProcessChange.STARTED: "restarted" if step.again else "started",
        ProcessChange.ENDED: "ended unexpectedly",
        ProcessChange.STOPPED: "stopped",
    }
    return f"{_label(step)} {words[step.change]}"


def shared_steps(steps: Sequence[ProcessStep], since: datetime, until: datetime) -> list[ProcessStep]:
    """The steps between two moments of the processes that all files need."""
    return [step for step in steps if step.role in SHARED_ROLES and since.timestamp() <= step.at <= until.timestamp()]


def ends_of(steps: Iterable[ProcessStep], name: str) -> list[ProcessStep]:
    """The unexpected ends of a process. Its starts and stops are events of the worker itself."""
    return [step for step in steps if step.name == name and step.change is ProcessChange.ENDED]


def _label(step: ProcessStep) -> str:
    known = SERVERS.get(step.name) or ROLES.get(step.role)
    return step.name if known is None else known if step.name in SERVERS else f"{known} ({step.name})"


def _entry(step: ProcessStep) -> TimelineEntry:
    pid = f"process {step.pid}" if step.pid is not None else ""
    detail = " · ".join(part for part in (pid, step.text) if part)
    return TimelineEntry(datetime.fromtimestamp(step.at, UTC), process_summary(step), detail, _tone(step))


def _tone(step: ProcessStep) -> str:
    if step.change is ProcessChange.ENDED:
        return "bad"
    return "none" if step.change is ProcessChange.STOPPED else "warn" if step.again else "good"
