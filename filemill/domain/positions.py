"""Offsets of several partitions as one text: `0:120,1:98`. URLs and commands name a page of a topic by it."""

import re
from collections.abc import Mapping

_POSITIONS = re.compile(r"[0-9]{1,9}:[0-9]{1,18}(,[0-9]{1,9}:[0-9]{1,18})*")


def format_positions(positions: Mapping[int, int]) -> str:
    """The text for these offsets, by partition."""
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(positions.items()))


def parse_positions(text: str) -> tuple[tuple[int, int], ...] | None:
    """Partitions and offsets of the text; empty for an empty one, None for another text."""
    if not text:
        return ()
    if _POSITIONS.fullmatch(text) is None:
        return None
    pairs = (pair.split(":") for pair in text.split(","))
    return tuple((int(partition), int(offset)) for partition, offset in pairs)
