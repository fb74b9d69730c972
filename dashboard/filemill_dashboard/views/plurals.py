"""The grammar of counts. Pure."""


def inflect(count: int, singular: str, plural: str = "") -> str:
    """The form that goes with the count: `file` for 1, otherwise `plural`, or `singular` with an s."""
    return singular if count == 1 else plural or f"{singular}s"


def counted(count: int, singular: str, plural: str = "") -> str:
    """A count and its noun: `1 file`, `1,234 files`, `2 dead letters match`."""
    return f"{count:,} {inflect(count, singular, plural)}"
