"""A few figures side by side, each with what it means."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from filemill_dashboard.components.assets import component


@dataclass(frozen=True)
class Number:
    """One figure. A value of None is unknown; `note` is below it, `title` explains it, `tone` colours it."""

    name: str
    value: str | None
    note: str = ""
    title: str = ""
    tone: str | None = None


def figures(key: str, numbers: Sequence[Number], *, old: bool) -> None:
    """Draw them."""
    component("figures")(key=key, data={"numbers": [asdict(number) for number in numbers], "old": old})
