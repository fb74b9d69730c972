"""What people did, and deployments, as marks on every chart."""

from collections.abc import Sequence
from typing import Any

from filemill.domain.files import epoch_milliseconds
from filemill.queries.history import DEPLOYED, Act
from filemill.services.faults import FAULT
from filemill_dashboard.components.chart import Annotation


def annotations_of(acts: Sequence[Act]) -> list[Annotation]:
    """A mark an act, and a bar a fault. What was refused did not happen."""
    return [_annotation(act) for act in acts if "refused" not in act.detail]


def _annotation(act: Act) -> Annotation:
    began = epoch_milliseconds(act.at)
    ended, seconds = act.detail.get("ended"), act.detail.get("seconds")
    if act.action != FAULT or not isinstance(seconds, int | float) or seconds <= 0:
        return Annotation(began, describe(act))
    # Until its end is on record, the end that was planned.
    until = 1000 * ended if isinstance(ended, int | float) else began + 1000 * seconds
    return Annotation(began, describe(act), max(float(began), until))


def describe(act: Act) -> str:
    """What somebody did, in a few words, and who."""
    return f"{_summary(act.action, act.detail)} · {act.actor}"


def _summary(action: str, detail: dict[str, Any]) -> str:
    said = action
    match action:
        case _ if action == DEPLOYED:
            said = f"filemill {detail.get('version')} deployed"
        case "stack.scale":
            said = f"{detail.get('count')} × {detail.get('role')}"
        case "stack.kill" | "stack.stop":
            said = f"{action.removeprefix('stack.')} {detail.get('worker')}"
        case "fault":
            lasts = f" for {detail['seconds']:g} s" if detail.get("seconds") else ""
            refused = f", refused: {detail['refused']}" if "refused" in detail else ""
            said = f"{detail.get('target')} {detail.get('fault')}{lasts}{refused}"
        case "offsets.reset":
            done = {"cancel": "cancelled", "resubmit": "resubmitted"}.get(str(detail.get("then")), "dealt with")
            said = f"offsets of {detail.get('group')} to {detail.get('to')}; {detail.get('unfinished', 0)} files {done}"
        case "topic.partitions":
            said = f"{detail.get('topic')}: {detail.get('before')} → {detail.get('count')} partitions"
        case "quiet" | "resume":
            said = f"{action} {detail.get('worker') or 'all workers'}"
        case "retry" | "resubmit" | "cancel" | "delete" | "dlq.replay":
            files = detail.get("files")
            asked = f"{detail.get('asked', '?')} files asked for"
            count = f"{len(files):,} files" if isinstance(files, list) else asked
            said = f"{'replay' if action == 'dlq.replay' else action}: {count}"
    return said
