"""Text from outside, as it is: an object's beginning, a payload."""

from filemill_dashboard.components.assets import component


def preview(key: str, text: str | None, *, title: str, note: str = "", message: str = "") -> None:
    """Draw it; `message` stands where there is no text, `note` beside the title."""
    component("preview")(key=key, data={"title": title, "text": text, "note": note, "message": message})
