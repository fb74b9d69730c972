"""Lost requests: accepted and unfinished, but no record is left that a worker will process. Pure."""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from filemill.domain.queues import DEFAULT_QUEUE


class PartitionRange(msgspec.Struct, frozen=True):
    """A partition of `file.create`: its begin and end offsets, and the group's committed offset (None: none)."""

    partition: int
    begin: int
    end: int
    committed: int | None


class LossBounds(msgspec.Struct, frozen=True):
    """An unfinished request of `queue` and `generation` is lost if its offset is below one of its partition's bounds.

    `removed`: retention removed the record, and no worker has it. `passed`: the group has committed it, and all results
    up to then are applied. The topic of a request of another generation was deleted.
    """

    generation: int
    removed: dict[int, int]
    passed: dict[int, int]
    ends: dict[int, int]
    queue: str = DEFAULT_QUEUE


def loss_bounds(
    generation: int,
    parts: Sequence[PartitionRange],
    owned: Collection[int],
    *,
    share_group: bool,
    results_applied: bool,
    queue: str = DEFAULT_QUEUE,
) -> LossBounds:
    """The bounds below which unfinished requests are lost now.

    `owned`: the partitions of workers with records in progress. Such a worker may have read a record before it was
    removed, and will finish it. In a share group (`share_group`) there are no committed offsets.
    """
    removed, passed = {}, {}
    for part in parts:
        begin, committed = part.begin, part.committed or 0
        held = part.partition in owned and not share_group
        removed[part.partition] = min(begin, committed) if held else begin
        if results_applied and not share_group and committed <= part.end:
            passed[part.partition] = committed
    return LossBounds(generation, removed, passed, {part.partition: part.end for part in parts}, queue)


def results_applied(ends: Mapping[int, int], positions: Mapping[int, int]) -> bool:
    """Whether the status sync has read all results below the end offsets."""
    return all(positions.get(partition, 0) >= end for partition, end in ends.items())
