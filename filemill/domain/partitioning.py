"""Strict round robin: the partition of each sequence number. Pure.

For messages without a key librdkafka sends whole batches to one partition, so the relay chooses the partition itself.
Sequence numbers start at 1 and have no gaps. Number 1 goes to partition 0, 2 to 1, 3 to 2, 4 to 0 and so on. If
partitions are added, the numbers continue and the cycle covers the new count.
"""

from collections.abc import Iterable

import msgspec


class Placement(msgspec.Struct, frozen=True):
    """A sequence number, from 1, and its partition, from 0."""

    sequence: int
    partition: int


def assign_partitions(next_sequence: int, count: int, partitions: int) -> list[Placement]:
    """The next `count` placements on a topic of `partitions` partitions."""
    if partitions < 1:
        raise ValueError(f"a topic has at least one partition, not {partitions}")
    return [Placement(number, (number - 1) % partitions) for number in range(next_sequence, next_sequence + count)]


def cycle_breaks(published: Iterable[Placement], partitions: int) -> list[int]:
    """The sequence numbers that do not continue the cycle, of distinct numbers in ascending order.

    `partitions` is the topic's current count. It can only have grown, so a number that breaks the cycle of one count
    may begin the cycle of a greater one. A number that fits no count is a break.
    """
    counts = set(range(1, partitions + 1))
    broken = []
    for placement in published:
        fitting = {count for count in counts if (placement.sequence - 1) % count == placement.partition}
        if not fitting:
            grown = range(min(counts) + 1, partitions + 1)
            fitting = {count for count in grown if (placement.sequence - 1) % count == placement.partition}
        if fitting:
            counts = fitting
        else:
            broken.append(placement.sequence)
    return broken
