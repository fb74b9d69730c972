"""The chaos schedule."""

import pytest

from filemill.lab.chaos import FAULTS, ONCE_PER_RUN, schedule


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    assert schedule(7, 10) == schedule(7, 10)
    assert schedule(7, 10) != schedule(8, 10)


@pytest.mark.parametrize("minutes", [1, 2, 10])
def test_every_schedule_has_every_fault_within_its_time(minutes: float) -> None:
    planned = schedule(3, minutes)
    assert {one.name for one in planned} == set(FAULTS)
    assert [one.at for one in planned] == sorted(one.at for one in planned)
    assert planned[0].at >= 0
    assert planned[-1].at <= minutes * 60


def test_a_long_schedule_repeats_only_repeatable_faults() -> None:
    names = [one.name for one in schedule(3, 20)]
    assert len(names) > len(FAULTS)
    assert all(names.count(name) == 1 for name in ONCE_PER_RUN)


def test_a_schedule_can_skip_known_faults_only() -> None:
    assert "clock jumps" not in {one.name for one in schedule(3, 2, frozenset({"clock jumps"}))}
    with pytest.raises(ValueError, match="unknown faults: rain"):
        schedule(3, 2, frozenset({"rain"}))
