"""The header of a file's page: its title and status."""

from filemill.adapters.postgres.file_rows import FileRow
from filemill_dashboard.components.assets import component
from filemill_dashboard.components.file_table import download_path
from filemill_dashboard.components.status_style import TONES


def file_header(file: FileRow, *, stale: bool) -> None:
    """Draw the header."""
    data = {
        "id": file.id,
        "title": file.title,
        "description": file.description,
        "status": file.status.value,
        "tone": TONES[file.status],
        "download": download_path(file),
        "stale": stale,
    }
    component("file_header")(key="head", data=data)
