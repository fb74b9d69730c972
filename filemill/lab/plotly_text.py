"""Escapes text for plotly, which interprets every text as markup.

Without it, `<a href=…>` in a worker id would be a link in a legend.
"""

import html
from collections.abc import Mapping
from typing import Any

# Constants of this project. Data is inserted by plotly's `%{…}` only, from escaped fields.
TEMPLATES = {"hovertemplate", "texttemplate"}


def plain(text: str) -> str:
    """An escaped text."""
    return html.escape(text, quote=False)


def plain_figure(part: Any) -> Any:  # noqa: ANN401 - a JSON document
    """A copy of a figure, or of a part, as a JSON document, with all texts except templates escaped."""
    if isinstance(part, str):
        return plain(part)
    if isinstance(part, Mapping):
        return {name: value if name in TEMPLATES else plain_figure(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [one if isinstance(one, int | float) else plain_figure(one) for one in part]
    return part
