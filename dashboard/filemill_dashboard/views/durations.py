"""Lengths of time for people. Pure."""


def format_rounded(seconds: float) -> str:
    """The nearest: two hours but for a tenth of a second are 2 h. For what is measured, not counted down."""
    size = next((size for size in (86_400, 3600, 60) if seconds >= 2 * size - size / 2), None)
    return format_duration(seconds if size is None else round(seconds / size) * size)


def format_duration(seconds: float | None) -> str:
    """Coarse above ten seconds: nobody needs the minutes of a day. Unknown is a dash."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
