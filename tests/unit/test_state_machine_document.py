"""docs/state-machine.md shows the transitions of the code, all of them and no others."""

import re
from datetime import UTC, datetime
from pathlib import Path

from filemill.domain.file_actions import FileAction
from filemill.domain.files import CurrentState, Status, StatusUpdate, supersedes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "state-machine.md"
EDGE = re.compile(r"^ +(\S+) --> (\S+): (\w+)$", re.MULTILINE)
NONE = "[*]"  # before a file is accepted, and after it is deleted
# The statuses that the status sync applies, by the event that has them.
EVENTS = {"progress": (Status.PROCESSING,), "result": (Status.COMPLETED, Status.FAILED)}


def documented() -> set[tuple[str, str, str]]:
    return set(EDGE.findall(PAGE.read_text()))


def implemented() -> set[tuple[str, str, str]]:
    at = datetime(2026, 1, 4, tzinfo=UTC)
    by_sync = {
        (current.value, new.value, event)
        for event, statuses in EVENTS.items()
        for new in statuses
        for current in Status
        if supersedes(StatusUpdate(file_id=1, run=1, status=new, at=at), CurrentState(1, current))
    }
    unfinished = [status for status in Status if not status.terminal]
    return {
        *by_sync,
        (NONE, Status.PENDING.value, "accept"),
        *((status.value, Status.CANCELLED.value, "cancel") for status in FileAction.CANCEL.statuses),
        *((status.value, Status.PENDING.value, "retry") for status in FileAction.RETRY.statuses),
        *((status.value, Status.PENDING.value, "resubmit") for status in unfinished),
        *((status.value, NONE, "delete") for status in FileAction.DELETE.statuses),
    }


def test_the_diagram_shows_the_transitions_of_the_code() -> None:
    assert documented() == implemented()


def test_the_table_explains_each_transition_of_the_diagram() -> None:
    explained = re.findall(r"^\| ([a-z]+) \| .+ \| .* \| `", PAGE.read_text(), re.MULTILINE)
    assert sorted(explained) == sorted({cause for _, _, cause in documented()})
