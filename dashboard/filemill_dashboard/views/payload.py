"""A record's value as people read it. Pure."""

import json

# A page shows this much of one value; an export has all of it.
SHOWN_CHARACTERS = 20_000


def pretty(value: bytes | None) -> str:
    """JSON indented, with its characters as they are; anything else as text, what is not UTF-8 in it escaped."""
    if value is None:
        return "(null: a tombstone)"
    if not value:
        return "(empty)"
    try:
        text = json.dumps(json.loads(value), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = value.decode(errors="backslashreplace")
    # A lone surrogate, which JSON can spell, has no UTF-8 to be sent to a browser in.
    text = text.encode(errors="backslashreplace").decode()
    left = len(text) - SHOWN_CHARACTERS
    return text if left <= 0 else f"{text[:SHOWN_CHARACTERS]}\n… and {left:,} characters more"


def one_line(value: bytes | None, characters: int = 160) -> str:
    """The beginning of a value, without line breaks."""
    if value is None:
        return "(null)"
    return " ".join(value[: characters * 4].decode(errors="backslashreplace").split())[:characters]
