"""The job that this process does, for every viewer to see and to stop."""

from typing import Any

from filemill_dashboard.components.assets import component
from filemill_dashboard.state.jobs import Jobs, JobView


def show_job(jobs: Jobs) -> None:
    """Draw it, where there is one."""
    view = jobs.view()
    component("job_progress")(key="job", data=_data(view), on_stop_change=jobs.stop)


def _data(view: JobView | None) -> dict[str, Any]:
    if view is None:
        return {"name": None}
    tone = "busy" if view.running else "warn" if view.error or view.refused else "good"
    of = f" of {view.total:,}" if view.total is not None else ""
    said = f"{view.done:,}{of}"
    said += f", {view.refused:,} left alone" if view.refused else ""
    said += f" · {view.error}" if view.error else "" if view.running else f" · done in {view.seconds:.1f} s"
    share = 1.0 if not view.running and not view.error else view.done / view.total if view.total else 0.0
    return {"name": view.name, "said": said, "share": min(1.0, share), "running": view.running, "tone": tone}
