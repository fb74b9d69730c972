"""Durations as text. Pure."""


def format_duration(seconds: float | None) -> str:
    """A duration with one decimal below ten seconds, rounded down above: `850 ms`, `9.5 s`, `3 min`. None is a dash."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return format_coarse(seconds)


def format_coarse(seconds: float) -> str:
    """A duration in whole units, rounded down: `9 s`, `3 min`, `2 d`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def format_rounded(seconds: float) -> str:
    """As `format_duration`, but rounded to the nearest unit: 7199.9 s are `2 h`. For what is measured."""
    size = next((size for size in (86_400, 3600, 60) if seconds >= 2 * size - size / 2), None)
    return format_duration(seconds if size is None else round(seconds / size) * size)
