"""A record's value as text for a page. Pure."""

import json

# A page shows at most this much of one value; an export has all of it.
SHOWN_CHARACTERS = 20_000


def pretty(value: bytes | None) -> str:
    """JSON indented; anything else as text, with bytes that are not UTF-8 escaped. Long values are cut."""
    if value is None:
        return "(null: a tombstone)"
    if not value:
        return "(empty)"
    try:
        text = json.dumps(json.loads(value), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = value.decode(errors="backslashreplace")
    # JSON can contain a lone surrogate, which cannot be encoded in UTF-8 for the browser.
    text = text.encode(errors="backslashreplace").decode()
    left_out = len(text) - SHOWN_CHARACTERS
    return text if left_out <= 0 else f"{text[:SHOWN_CHARACTERS]}\n… and {left_out:,} more characters"


def one_line(value: bytes | None, characters: int = 160) -> str:
    """The first characters of a value, without line breaks."""
    if value is None:
        return "(null)"
    return " ".join(value[: characters * 4].decode(errors="backslashreplace").split())[:characters]
