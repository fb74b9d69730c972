"""A few figures side by side, each with what it means."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from filemill_dashboard.components.assets import component


@dataclass(frozen=True)
class Metric:
    """One figure. A value of None is unknown; `note` is below it, `title` explains it, `tone` colours it."""

    name: str
    value: str | None
    note: str = ""
    title: str = ""
    tone: str | None = None


def metrics(key: str, items: Sequence[Metric], *, stale: bool) -> None:
    """Draw them."""
    component("figures")(key=key, data={"numbers": [asdict(number) for number in items], "old": stale})
