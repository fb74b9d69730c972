"""Download links."""

from collections.abc import Sequence

from filemill_dashboard.components.assets import component


def links(key: str, items: Sequence[tuple[str, str]]) -> None:
    """Draw links, given as (label, address), one below the other."""
    component("links")(key=key, data={"items": [{"label": label, "href": href} for label, href in items]})


def download_button(key: str, label: str, href: str, title: str) -> None:
    """Draw one link as a button. `title` is its tooltip."""
    component("links")(
        key=key, data={"items": [{"label": label, "href": href, "title": title}], "buttons": True}, width="content"
    )
