"""External text, shown unchanged: the start of an object, or a payload."""

from filemill_dashboard.components.assets import component


def preview(key: str, text: str | None, *, title: str, note: str = "", message: str = "") -> None:
    """Draw the text. `message` replaces a missing text; `note` is shown beside the title."""
    component("preview")(key=key, data={"title": title, "text": text, "note": note, "message": message})
