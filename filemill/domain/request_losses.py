"""Which requests are gone: accepted, unfinished, and with no record left that anybody will process. Pure."""

from collections.abc import Collection, Mapping, Sequence

import msgspec


class PartitionRange(msgspec.Struct, frozen=True):
    """A partition of the requests: where it begins and ends, and what the group has committed (None: nothing)."""

    partition: int
    begin: int
    end: int
    committed: int | None


class LossBounds(msgspec.Struct, frozen=True):
    """An unfinished request of `generation` is gone if its offset is below one of its partition's bounds.

    `removed`: retention took the record, and no worker has it. `passed`: the group has committed it, and every result
    up to then has been applied. One of another generation was on a topic that is gone.
    """

    generation: int
    removed: dict[int, int]
    passed: dict[int, int]
    ends: dict[int, int]


def loss_bounds(
    generation: int,
    parts: Sequence[PartitionRange],
    owned: Collection[int],
    *,
    share_group: bool,
    results_applied: bool,
) -> LossBounds:
    """The bounds of what is gone now.

    `owned` are the partitions of workers that have something in progress. They may have read a record before it was
    removed: then they finish it. Under a share group (`shares`) nobody commits offsets.
    """
    removed, passed = {}, {}
    for part in parts:
        begin, committed = part.begin, part.committed or 0
        held = part.partition in owned and not share_group
        removed[part.partition] = min(begin, committed) if held else begin
        if results_applied and not share_group and committed <= part.end:
            passed[part.partition] = committed
    return LossBounds(generation, removed, passed, {part.partition: part.end for part in parts})


def results_applied(ends: Mapping[int, int], positions: Mapping[int, int]) -> bool:
    """Whether the sync has read every result that there was when the ends were asked."""
    return all(positions.get(partition, 0) >= end for partition, end in ends.items())
