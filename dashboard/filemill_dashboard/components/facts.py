"""A list of names and values."""

from dataclasses import asdict, dataclass

from filemill_dashboard.components.assets import component


@dataclass(frozen=True)
class Fact:
    """One line. A value of None is shown as unknown; `tone` adds a coloured dot before it."""

    name: str
    value: str | None
    tone: str | None = None
    mono: bool = False


def facts(
    key: str,
    lines: list[Fact],
    *,
    title: str = "",
    download: str | None = None,
    download_refusal: str = "",
    stale: bool = False,
) -> None:
    """Draw the list below its title, with a download link at the end. A `stale` list is dimmed.

    `download_refusal`: why the download is not possible now; empty: it is.
    """
    data = {"title": title, "facts": [asdict(line) for line in lines], "download": download, "stale": stale}
    component("facts")(key=key, data={**data, "download_refusal": download_refusal})
