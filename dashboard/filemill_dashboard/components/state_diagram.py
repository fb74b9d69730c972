"""The states of a file, and the way that it took through them."""

from filemill.domain.files import epoch_milliseconds
from filemill_dashboard.components.assets import component
from filemill_dashboard.views.file_timeline import StateDiagram, StateNode


def draw_machine(key: str, machine: StateDiagram, *, stale: bool) -> None:
    """Draw it from left to right; the state that the file is in stands out."""
    data = {
        "way": [_node(node) for node in machine.path],
        "ends": [_node(node) for node in machine.ends],
        "again": f"run {machine.run}" if machine.run > 1 else "retry: a new run",
        "ran": machine.run > 1,
        "old": stale,
    }
    component("state_diagram")(key=key, data=data)


def _node(node: StateNode) -> dict[str, object]:
    return {
        "name": node.name,
        "note": node.note,
        "at": None if node.at is None else epoch_milliseconds(node.at),
        "after": node.after_seconds,
        "here": node.current,
        "reached": node.at is not None or node.current,
        "tone": node.tone,
    }
