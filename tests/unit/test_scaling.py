"""The Universal Scalability Law, fitted to points that are known to follow it."""

import pytest

from filemill.lab.scaling import ScalingLaw, fit


def test_points_of_the_law_give_its_coefficients() -> None:
    law = ScalingLaw(rate=100, contention=0.05, coherency=0.01)
    found = fit([1, 2, 3, 4, 8], [law.at(n) for n in (1, 2, 3, 4, 8)])
    assert found.rate == pytest.approx(100)
    assert found.contention == pytest.approx(0.05)
    assert found.coherency == pytest.approx(0.01)
    assert found.peak == pytest.approx((0.95 / 0.01) ** 0.5)


def test_perfect_scaling_has_no_peak() -> None:
    found = fit([1, 2, 4], [10, 20, 40])
    assert (found.contention, found.coherency) == pytest.approx((0, 0), abs=1e-9)
    assert ScalingLaw(10, 0, 0).peak == float("inf")


def test_superlinear_scaling_counts_as_perfect() -> None:
    assert fit([1, 2, 4], [10, 22, 50]).contention == 0


def test_fewer_than_three_points_are_rejected() -> None:
    with pytest.raises(ValueError, match="three different numbers"):
        fit([1, 2, 2], [10, 20, 21])
