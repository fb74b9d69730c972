"""JSON paths (RFC 9535) of places in a document. Pure."""

import json
import re
from collections.abc import Sequence

_SHORTHAND = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def json_path(*steps: str | int | Sequence[str | int]) -> str:
    """The path of a place: `json_path("lines", 0, "price")` is `$.lines[0].price`."""
    path = "$"
    for step in steps:
        for name in [step] if isinstance(step, str | int) else step:
            if isinstance(name, int):
                path += f"[{name}]"
            elif _SHORTHAND.fullmatch(name):
                path += f".{name}"
            else:
                path += f"[{json.dumps(name, ensure_ascii=False)}]"
    return path
