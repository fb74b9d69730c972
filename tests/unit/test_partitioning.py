"""Strict round robin: the partition of each number, and breaks of the cycle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemill.domain.partitioning import Placement, assign_partitions, cycle_breaks


def _topic(*phases: tuple[int, int]) -> list[Placement]:
    """Publications of `count` messages over `partitions` partitions each, one phase after the other."""
    published: list[Placement] = []
    for count, partitions in phases:
        published += assign_partitions(len(published) + 1, count, partitions)
    return published


def test_message_1_goes_to_partition_0_and_4_again() -> None:
    assert [(slot.sequence, slot.partition) for slot in assign_partitions(1, 5, 3)] == [
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 0),
        (5, 1),
    ]


@given(st.integers(1, 10**9), st.integers(0, 20), st.integers(1, 12), st.integers(0, 20))
def test_the_cycle_continues_between_two_claims(first: int, count: int, partitions: int, more: int) -> None:
    cut = assign_partitions(first, count, partitions) + assign_partitions(first + count, more, partitions)
    assert cut == assign_partitions(first, count + more, partitions)


@given(st.integers(1, 10**9), st.integers(1, 12))
def test_a_cycle_contains_every_partition_once(first: int, partitions: int) -> None:
    assert sorted(slot.partition for slot in assign_partitions(first, partitions, partitions)) == list(
        range(partitions)
    )


@pytest.mark.parametrize("partitions", [0, -1])
def test_a_topic_without_partitions_is_refused(partitions: int) -> None:
    with pytest.raises(ValueError, match="at least one partition"):
        assign_partitions(1, 1, partitions)


def test_no_publications_are_no_breaks() -> None:
    assert cycle_breaks([], 3) == []
    assert assign_partitions(5, 0, 3) == []


@given(st.integers(0, 60), st.integers(1, 8))
def test_a_regular_cycle_has_no_breaks(count: int, partitions: int) -> None:
    assert cycle_breaks(_topic((count, partitions)), partitions) == []


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=4), st.integers(1, 4))
def test_partitions_may_be_added_at_any_number(growth: list[tuple[int, int]], first: int) -> None:
    phases, partitions = [], first
    for count, added in growth:
        partitions += added
        phases.append((count, partitions))
    assert cycle_breaks(_topic(*phases), partitions) == []


@given(st.integers(2, 8), st.integers(0, 50), st.data())
def test_every_misplaced_number_after_the_first_cycle_is_a_break(
    partitions: int, place: int, data: st.DataObject
) -> None:
    topic = _topic((partitions + 60, partitions))
    victim = topic[partitions + place]
    elsewhere = data.draw(st.sampled_from([number for number in range(partitions) if number != victim.partition]))
    topic[partitions + place] = Placement(victim.sequence, elsewhere)
    assert cycle_breaks(topic, partitions) == [victim.sequence]


@given(st.integers(2, 8), st.integers(0, 40))
def test_two_swapped_numbers_are_both_breaks(partitions: int, place: int) -> None:
    topic = _topic((partitions + 60, partitions))
    first, second = topic[partitions + place], topic[partitions + place + 1]
    topic[partitions + place] = Placement(first.sequence, second.partition)
    topic[partitions + place + 1] = Placement(second.sequence, first.partition)
    assert cycle_breaks(topic, partitions) == [first.sequence, second.sequence]


def test_sticky_partitioning_is_detected() -> None:
    """The sticky partitioner of librdkafka: each batch goes to one partition."""
    topic = [Placement(number, (number - 1) // 10 % 3) for number in range(1, 31)]
    assert len(cycle_breaks(topic, 3)) > 10


def test_a_cycle_that_restarts_is_detected() -> None:
    topic = [Placement(number, (number - 1) % 3) for number in range(1, 5)]
    topic += [Placement(number, (number - 5) % 3) for number in range(5, 12)]
    assert cycle_breaks(topic, 3) == list(range(5, 12))


def test_a_cycle_without_an_added_partition_has_no_breaks() -> None:
    """Whether the relay must have seen it by then is not in the numbers."""
    assert cycle_breaks(_topic((30, 3)), 5) == []


def test_a_smaller_cycle_is_detected() -> None:
    topic = _topic((30, 3), (30, 5))
    topic += [Placement(number, (number - 1) % 3) for number in range(61, 80)]
    assert cycle_breaks(topic, 5)


def test_missing_numbers_are_no_breaks() -> None:
    topic = [slot for slot in _topic((60, 3)) if slot.sequence % 7]
    assert cycle_breaks(topic, 3) == []


def test_an_unknown_partition_is_detected() -> None:
    assert cycle_breaks([*_topic((6, 3)), Placement(7, 9)], 3) == [7]
