"""Names and values, one below the other."""

from dataclasses import asdict, dataclass

from filemill_dashboard.components.assets import component


@dataclass(frozen=True)
class Fact:
    """One line. A value of None is shown as unknown; `tone` puts a coloured dot before it."""

    name: str
    value: str | None
    tone: str | None = None
    mono: bool = False


def facts(key: str, lines: list[Fact], *, title: str = "", download: str | None = None, stale: bool = False) -> None:
    """Draw them, under a title, with a download at the end; `old` ones are paler."""
    data = {"title": title, "facts": [asdict(line) for line in lines], "download": download, "old": stale}
    component("facts")(key=key, data=data)
