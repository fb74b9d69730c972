"""The background job of this process, and the deletions that can be undone. Every viewer sees them."""

from typing import Any

from filemill.domain.permissions import Permission
from filemill_dashboard.components.assets import component
from filemill_dashboard.state.deletions import UNDO_SECONDS, Deletions, DeletionsView
from filemill_dashboard.state.jobs import Jobs, JobView
from filemill_dashboard.state.principals import page_principal, why_not
from filemill_dashboard.views.plurals import counted


def show_job(jobs: Jobs) -> None:
    """Draw the job, if there is one."""
    view = jobs.view()

    def stop() -> None:
        if not why_not(Permission.STOP_JOBS):
            jobs.stop()

    component("job_progress")(key="job", data=_data(view), on_stop_change=stop)


def show_deletions(deletions: Deletions) -> None:
    """Draw the deletions that wait, with a button that undoes them, or the outcome of the last one."""

    def undo() -> None:
        if not why_not(Permission.DELETE_FILES):
            deletions.undo()
        elif not why_not(Permission.DELETE_OWN_FILES):
            deletions.undo(only=page_principal())

    component("job_progress")(key="deletions", data=_deletions_data(deletions.view()), on_stop_change=undo)


def _deletions_data(view: DeletionsView | None) -> dict[str, Any]:
    if view is None:
        return {"name": None}
    files = counted(len(view.files), "file")
    named = f"{files}: #{', #'.join(map(str, view.files[:3]))}{' …' if len(view.files) > 3 else ''}"
    waits = view.seconds_left is not None
    deleted = f"{view.deleted:,} deleted"
    return {
        "name": f"Deleting {named}" if waits else f"Delete {named}",
        "summary": "nothing is deleted yet" if waits else f"{deleted} · {view.problem}" if view.problem else deleted,
        "fraction": 1 - (view.seconds_left or 0.0) / UNDO_SECONDS,
        "seconds_left": view.seconds_left,
        "button": "Undo" if waits else "Hide",
        "tone": "warn" if waits or view.problem else "good",
    }


def _data(view: JobView | None) -> dict[str, Any]:
    if view is None:
        return {"name": None}
    if view.begins_in_seconds is not None:
        return {
            "name": view.name,
            "summary": "nothing is deleted yet",
            "fraction": 0.0,
            "seconds_left": view.begins_in_seconds,
            "button": "Undo",
            "tone": "warn",
        }
    tone = "busy" if view.running else "warn" if view.error or view.refused else "good"
    of = f" of {view.total:,}" if view.total is not None else ""
    summary = f"{view.done:,}{of}"
    summary += f", {view.refused:,} skipped" if view.refused else ""
    summary += f" · {view.error}" if view.error else "" if view.running else f" · done in {view.seconds:.1f} s"
    fraction = 1.0 if not view.running and not view.error else view.done / view.total if view.total else 0.0
    return {
        "name": view.name,
        "summary": summary,
        "fraction": min(1.0, fraction),
        "seconds_left": None,
        "button": "Stop" if view.running else "Hide",
        "tone": tone,
    }
