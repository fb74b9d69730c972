"""Metrics side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from filemill_dashboard.components.assets import component


@dataclass(frozen=True)
class Metric:
    """One metric. A value of None is unknown; `note` is shown below it and `title` is its tooltip."""

    name: str
    value: str | None
    note: str = ""
    title: str = ""
    tone: str | None = None


def metrics(key: str, items: Sequence[Metric], *, stale: bool) -> None:
    """Draw the metrics."""
    component("metrics")(key=key, data={"metrics": [asdict(item) for item in items], "stale": stale})
