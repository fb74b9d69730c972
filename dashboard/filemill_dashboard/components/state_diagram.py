"""The state diagram of a file, with the path that it took."""

from filemill.domain.files import epoch_milliseconds
from filemill_dashboard.components.assets import component
from filemill_dashboard.views.file_timeline import StateDiagram, StateNode


def draw_state_diagram(key: str, diagram: StateDiagram, *, stale: bool) -> None:
    """Draw the diagram from left to right. The current state is highlighted."""
    data = {
        "path": [_node(node) for node in diagram.path],
        "ends": [_node(node) for node in diagram.ends],
        "retry_label": f"run {diagram.run}" if diagram.run > 1 else "retry: a new run",
        "retried": diagram.run > 1,
        "stale": stale,
    }
    component("state_diagram")(key=key, data=data)


def _node(node: StateNode) -> dict[str, object]:
    return {
        "name": node.name,
        "note": node.note,
        "at": None if node.at is None else epoch_milliseconds(node.at),
        "after": node.after_seconds,
        "current": node.current,
        "reached": node.at is not None or node.current,
        "tone": node.tone,
    }
