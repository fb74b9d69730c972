"""Operations, faults and deployments as annotations on charts."""

from collections.abc import Sequence
from typing import Any

from filemill.adapters.postgres.audit import FAULT
from filemill.domain.files import epoch_milliseconds
from filemill.queries.history import DEPLOYED, AuditEntry
from filemill.runtime.process_history import ProcessStep
from filemill.services.audit import REFUSED
from filemill_dashboard.components.chart import Annotation
from filemill_dashboard.views.plurals import counted
from filemill_dashboard.views.process_story import SHARED_ROLES, process_summary


def annotations_of(operations: Sequence[AuditEntry]) -> list[Annotation]:
    """Return an annotation per operation; a fault is a bar. Refused operations are left out."""
    return [_annotation(operation) for operation in operations if "refused" not in operation.detail]


def annotations_of_processes(steps: Sequence[ProcessStep]) -> list[Annotation]:
    """Return an annotation per start and end of a server or of a worker that is no file processor."""
    return [Annotation(round(1000 * step.at), process_summary(step)) for step in steps if step.role in SHARED_ROLES]


def _annotation(operation: AuditEntry) -> Annotation:
    began = epoch_milliseconds(operation.at)
    ended, seconds = operation.detail.get("ended"), operation.detail.get("seconds")
    if operation.action != FAULT or not isinstance(seconds, int | float) or seconds <= 0:
        return Annotation(began, describe(operation))
    # The planned end, until the actual end is recorded.
    until = 1000 * ended if isinstance(ended, int | float) else began + 1000 * seconds
    return Annotation(began, describe(operation), max(float(began), until))


def describe(operation: AuditEntry) -> str:
    """Return a short summary of an operation and its actor."""
    return f"{summary(operation.action, operation.detail)} · {operation.actor}"


def summary(action: str, detail: dict[str, Any]) -> str:
    """Return a short summary of an operation and of its refusal."""
    refused = "refused" in detail and action != REFUSED
    why = f", refused: {detail['refused']}" if refused else ""
    return f"{_summary(action, detail)}{why}"


def _summary(action: str, detail: dict[str, Any]) -> str:
    summary = action
    match action:
        case _ if action == DEPLOYED:
            summary = f"filemill {detail.get('version')} deployed"
        case "stack.scale":
            summary = f"{detail.get('count')} × {detail.get('role')}"
        case "stack.kill" | "stack.stop":
            summary = f"{action.removeprefix('stack.')} {detail.get('worker')}"
        case "workers.forget":
            workers = detail.get("workers")
            summary = f"forget {counted(len(workers), 'worker')}" if isinstance(workers, list) else action
        case "fault":
            duration = f" for {detail['seconds']:g} s" if detail.get("seconds") else ""
            summary = f"{detail.get('target')} {detail.get('fault')}{duration}"
        case "offsets.reset":
            done = {"cancel": "cancelled", "resubmit": "resubmitted"}.get(str(detail.get("then")), "changed")
            summary = (
                f"offsets of {detail.get('group')} to {detail.get('to')}; {_files(detail.get('unfinished', 0))} {done}"
            )
        case "topic.partitions":
            summary = f"{detail.get('topic')}: {detail.get('before')} → {detail.get('count')} partitions"
        case "quiet" | "resume":
            summary = f"{action} {detail.get('worker') or 'all workers'}"
        case "retry" | "resubmit" | "cancel" | "delete" | "dlq.replay":
            files = detail.get("files")
            requested = f"{_files(detail.get('asked'))} requested"
            count = counted(len(files), "file") if isinstance(files, list) else requested
            summary = f"{'replay' if action == 'dlq.replay' else action}: {count}"
    return summary


def _files(count: object) -> str:
    return counted(count, "file") if isinstance(count, int) else "? files"
