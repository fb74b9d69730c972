"""Tiles with the number of files per status."""

from collections.abc import Callable

from filemill.domain.files import Status
from filemill.queries.files import StatusCounts
from filemill_dashboard.components.filter_tiles import Tile, filter_tiles
from filemill_dashboard.components.status_style import TONES


def status_tiles(
    counts: StatusCounts | None,
    selected: Status | None,
    *,
    stale: bool,
    searching: bool,
    on_choice: Callable[[str], None],
) -> None:
    """Draw the tiles. `searching`: the counts are of a search or a queue. `on_choice` gets a status, or "" for all."""
    tiles = [Tile("", "All matching" if searching else "All files", counts.total if counts else None, "none")]
    tiles += [
        Tile(status.value, status.value.capitalize(), counts.by_status[status] if counts else None, TONES[status])
        for status in Status
    ]
    chosen = selected.value if selected else ""
    filter_tiles("tiles", tiles, chosen, label="Filter by status", stale=stale, on_choice=on_choice)
