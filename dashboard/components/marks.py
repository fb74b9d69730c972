"""What people did, as marks on every chart."""

from collections.abc import Sequence

from dashboard.components.chart import Mark
from filemill.adapters.postgres_reads_history import Act
from filemill.files import epoch_milliseconds


def marks_of(acts: Sequence[Act]) -> list[Mark]:
    """A mark an act. Plotly reads a few tags in a text, so what could be one does not go into it."""
    return [Mark(epoch_milliseconds(act.at), describe(act).replace("<", "‹").replace("&", "＆")) for act in acts]


def describe(act: Act) -> str:
    """What somebody did, in a few words."""
    detail = act.detail
    worker = detail.get("worker")
    match act.action:
        case "stack.scale":
            return f"{detail.get('count')} × {detail.get('role')} · {act.actor}"
        case "stack.kill" | "stack.stop":
            return f"{act.action.removeprefix('stack.')} {worker} · {act.actor}"
        case "topic.partitions":
            return f"{detail.get('topic')}: {detail.get('before')} → {detail.get('count')} partitions · {act.actor}"
        case "quiet" | "resume":
            return f"{act.action} {worker or 'all workers'} · {act.actor}"
        case "retry" | "cancel" | "delete" | "dlq.replay":
            files = detail.get("files")
            count = (
                f"{len(files):,} files" if isinstance(files, list) else f"{detail.get('asked', '?')} files asked for"
            )
            return f"{'replay' if act.action == 'dlq.replay' else act.action}: {count} · {act.actor}"
    return f"{act.action} · {act.actor}"
