"""Custom components: each has a script and a style sheet beside its Python module.

Streamlit keeps a component mounted between refreshes and passes it new data, so nothing flickers. The script sets
values as text nodes, so no title can become markup. `base.js` and `base.css` are prepended to each.
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
    """Mounts a component. Its script gets `data`; `on_NAME_change` is called when its trigger NAME fires."""

    def __call__(self, *, key: str, data: dict[str, Any], **callbacks: Any) -> Any:  # noqa: ANN401
        """Mount the component, or update the one that is mounted under `key`."""


@cache
def component(name: str, *, isolated: bool = True) -> Component:
    """Return the component of `NAME.js` and `NAME.css`.

    `isolated=False` is for a library that adds styles to the document itself.
    """
    mount: Component = st.components.v2.component(
        f"filemill.{name}",
        html='<div class="root"></div>',
        css=_text("base.css") + _text(f"{name}.css"),
        js=_text("base.js") + _text(f"{name}.js"),
        isolate_styles=isolated,
    )
    return mount


def only_drawn(component: str, sent: object, drawn: Collection[str]) -> str | None:
    """Return the value that a browser sent, or None if the component was not last drawn with it.

    A script can send any message to the session of its page, not only those of the drawn buttons.
    """
    if isinstance(sent, str) and sent in drawn:
        return sent
    log.debug("Ignored a message for an element that was not drawn", component=component)
    return None


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
