"""Strict round robin: which partition a publish number belongs to.

librdkafka's own choice for a message without a key is sticky (a batch to one partition), so the relay gives each
message its partition. Publish numbers start at 1 and have no gaps; message 1 goes to partition 0, 2 to 1, 3 to 2,
4 to 0 and so on. When partitions are added, the numbers go on and the cycle is over the new count from there.
"""

from collections.abc import Iterable

import msgspec


class Placement(msgspec.Struct, frozen=True):
    """A place in the rotation: the publish number, from 1, and its partition, from 0."""

    sequence: int
    partition: int


def assign_partitions(next_sequence: int, count: int, partitions: int) -> list[Placement]:
    """The next `count` places, for a topic of `partitions` partitions."""
    if partitions < 1:
        raise ValueError(f"a topic has at least one partition, not {partitions}")
    return [Placement(number, (number - 1) % partitions) for number in range(next_sequence, next_sequence + count)]


def cycle_breaks(published: Iterable[Placement], partitions: int) -> list[int]:
    """The publish numbers that do not continue the cycle, for distinct numbers in ascending order.

    `partitions` is the topic's count now. It can only have grown, so a number that breaks the cycle of one count may
    begin the cycle of a greater one; a number that no count explains is out of turn.
    """
    counts = set(range(1, partitions + 1))
    broken = []
    for slot in published:
        fitting = {count for count in counts if (slot.sequence - 1) % count == slot.partition}
        if not fitting:
            grown = range(min(counts) + 1, partitions + 1)
            fitting = {count for count in grown if (slot.sequence - 1) % count == slot.partition}
        if fitting:
            counts = fitting
        else:
            broken.append(slot.sequence)
    return broken
