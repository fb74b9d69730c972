"""The link that downloads a notebook with the data of a page."""

from urllib.parse import urlencode

from filemill_dashboard.components.links import download_button


def notebook_link(**selection: str | int) -> None:
    """Draw the link: for a `period` in seconds up to now, or for a `run` of the lab."""
    subject = "run" if "run" in selection else "period"
    title = f"Download a notebook that plots this {subject}. Open it with `make lab`."
    download_button("notebook", "Open in a notebook", f"/api/notebook?{urlencode(selection)}", title)
