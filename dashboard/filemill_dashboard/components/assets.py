"""Components of our own: a script and a style sheet beside each Python module.

Streamlit keeps such a component mounted from one refresh to the next and hands it new data, so nothing flickers, and
the script sets values as text nodes, so no title can become markup. `base.js` and `base.css` go in front of each.
"""

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import streamlit as st
import structlog

log = structlog.get_logger("page")

_HERE = Path(__file__).parent


class Component(Protocol):
    """Mounts a component: `data` goes to its script, and `on_NAME_change` is called for its trigger NAME."""

    def __call__(self, *, key: str, data: dict[str, Any], **callbacks: Any) -> Any:  # noqa: ANN401
        """Mount, or hand new data to what is mounted under `key`."""


@cache
def component(name: str, *, isolated: bool = True) -> Component:
    """The component of `NAME.js` and `NAME.css`; `isolated` False is for a library that styles the document itself."""
    mount: Component = st.components.v2.component(
        f"filemill.{name}",
        html='<div class="root"></div>',
        css=_text("base.css") + _text(f"{name}.css"),
        js=_text("base.js") + _text(f"{name}.js"),
        isolate_styles=isolated,
    )
    return mount


def only_drawn(component: str, sent: object, drawn: Collection[str]) -> str | None:
    """What a browser sent, if the component was last drawn with it; None for anything else.

    A script can send any message to its page's session, not only what the drawn buttons send.
    """
    if isinstance(sent, str) and sent in drawn:
        return sent
    log.debug("Dropped what was not drawn", component=component)
    return None


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
