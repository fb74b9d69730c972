"""What happened, one below the other."""

from collections.abc import Sequence

from filemill.domain.files import epoch_milliseconds
from filemill_dashboard.components.assets import component
from filemill_dashboard.views.file_timeline import TimelineEntry


def timeline_of(key: str, steps: Sequence[TimelineEntry], *, title: str, empty: str = "", stale: bool = False) -> None:
    """Draw them, oldest first, with the time between each and the one before."""
    moments = [epoch_milliseconds(step.at) for step in steps]
    data = {
        "title": title,
        "empty": empty,
        "old": stale,
        "steps": [
            {
                "key": f"{moment}-{place}",
                "at": moment,
                "since": None if place == 0 or moment < moments[place - 1] else (moment - moments[place - 1]) / 1000,
                "what": step.what,
                "detail": step.detail,
                "tone": step.tone,
                "trace": step.trace,
            }
            for place, (moment, step) in enumerate(zip(moments, steps, strict=True))
        ],
    }
    component("timeline")(key=key, data=data)
