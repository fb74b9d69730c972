"""The link that opens what a page shows in a notebook."""

from urllib.parse import urlencode

from filemill_dashboard.components.links import download_button


def notebook_link(**what: str | int) -> None:
    """Draw it: for a `period` in seconds up to now, or for a `run` of the lab."""
    title = "Take a notebook along that loads the same window's records and rows, and draws them (`make lab`)"
    download_button("notebook", "Open in a notebook", f"/api/notebook?{urlencode(what)}", title)
