"""A timeline of events."""

from collections.abc import Sequence

from filemill.domain.files import epoch_milliseconds
from filemill_dashboard.components.assets import component
from filemill_dashboard.views.file_timeline import TimelineEntry


def event_timeline(
    key: str, steps: Sequence[TimelineEntry], *, title: str, empty: str = "", stale: bool = False
) -> None:
    """Draw the events, oldest first, each with the time since the previous one."""
    moments = [epoch_milliseconds(step.at) for step in steps]
    data = {
        "title": title,
        "empty": empty,
        "stale": stale,
        "steps": [
            {
                "key": f"{moment}-{index}",
                "at": moment,
                "since_previous": None
                if index == 0 or moment < moments[index - 1]
                else (moment - moments[index - 1]) / 1000,
                "title": step.what,
                "detail": step.detail,
                "tone": step.tone,
                "trace": step.trace,
            }
            for index, (moment, step) in enumerate(zip(moments, steps, strict=True))
        ],
    }
    component("timeline")(key=key, data=data)
