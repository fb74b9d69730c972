"""The schedule of a storm."""

import pytest

from filemill.lab.chaos import FAULTS, ONCE_PER_RUN, schedule


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    assert schedule(7, 10) == schedule(7, 10)
    assert schedule(7, 10) != schedule(8, 10)


@pytest.mark.parametrize("minutes", [1, 2, 10])
def test_every_listed_fault_is_in_every_storm_and_within_its_time(minutes: float) -> None:
    planned = schedule(3, minutes)
    assert {one.name for one in planned} == set(FAULTS)
    assert [one.at for one in planned] == sorted(one.at for one in planned)
    assert planned[0].at >= 0
    assert planned[-1].at <= minutes * 60


def test_a_long_storm_repeats_faults_but_not_those_that_can_be_had_once() -> None:
    names = [one.name for one in schedule(3, 20)]
    assert len(names) > len(FAULTS)
    assert all(names.count(name) == 1 for name in ONCE_PER_RUN)


def test_a_storm_can_do_without_a_fault_but_not_without_one_that_it_does_not_know() -> None:
    assert "clock jumps" not in {one.name for one in schedule(3, 2, frozenset({"clock jumps"}))}
    with pytest.raises(ValueError, match="not among the faults: rain"):
        schedule(3, 2, frozenset({"rain"}))
