"""A file's title and status, at the head of its page."""

from filemill.adapters.postgres.file_rows import FileRow
from filemill_dashboard.components.assets import component
from filemill_dashboard.components.file_table import download_path
from filemill_dashboard.components.status_style import TONES


def file_header(file: FileRow, *, stale: bool) -> None:
    """Draw them."""
    data = {
        "id": file.id,
        "title": file.title,
        "description": file.description,
        "status": file.status.value,
        "tone": TONES[file.status],
        "download": download_path(file),
        "old": stale,
    }
    component("file_head")(key="head", data=data)
