"""The background job of this process. Every viewer sees it; operators can stop it."""

from typing import Any

from filemill.domain.permissions import Permission
from filemill_dashboard.components.assets import component
from filemill_dashboard.state.jobs import Jobs, JobView
from filemill_dashboard.state.principals import why_not


def show_job(jobs: Jobs) -> None:
    """Draw the job, if there is one."""
    view = jobs.view()

    def stop() -> None:
        if not why_not(Permission.STOP_JOBS):
            jobs.stop()

    component("job_progress")(key="job", data=_data(view), on_stop_change=stop)


def _data(view: JobView | None) -> dict[str, Any]:
    if view is None:
        return {"name": None}
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
        "running": view.running,
        "tone": tone,
    }
