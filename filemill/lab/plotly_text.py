"""Text that plotly shows as it is.

Plotly takes every text for markup: `<a href=…>` in a worker's id is a live link in a legend. `<`, `>` and `&` are
written as entities, which it shows as these characters.
"""

import html
from collections.abc import Mapping
from typing import Any

# Constants of ours: data goes into them by plotly's `%{…}` only, from fields that are escaped.
TEMPLATES = {"hovertemplate", "texttemplate"}


def plain(text: str) -> str:
    """A text as plotly is to be given it."""
    return html.escape(text, quote=False)


def plain_figure(part: Any) -> Any:  # noqa: ANN401 - a JSON document
    """A figure, or a part of one, as a document: a copy with all texts in it escaped, but for templates."""
    if isinstance(part, str):
        return plain(part)
    if isinstance(part, Mapping):
        return {name: value if name in TEMPLATES else plain_figure(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [one if isinstance(one, int | float) else plain_figure(one) for one in part]
    return part
