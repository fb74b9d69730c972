"""The header of a file's page: its title and status."""

from filemill.adapters.postgres.file_rows import FileRow
from filemill_dashboard.components.assets import component
from filemill_dashboard.components.file_table import download_path
from filemill_dashboard.components.status_style import TONES


def file_header(file: FileRow, *, stale: bool, download_refusal: str = "") -> None:
    """Draw the header. `download_refusal`: why nothing can be downloaded now; empty: it can."""
    data = {
        "id": file.id,
        "title": file.title,
        "description": file.description,
        "status": file.status.value,
        "tone": TONES[file.status],
        "download": download_path(file),
        "download_refusal": download_refusal,
        "stale": stale,
    }
    component("file_header")(key="head", data=data)
