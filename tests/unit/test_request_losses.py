"""The offsets below which requests are lost: removed, or committed without a result."""

import pytest

from filemill.domain.request_losses import PartitionRange, loss_bounds, results_applied


@pytest.mark.parametrize(
    ("span", "owned", "shares", "removed"),
    [
        (PartitionRange(0, 5, 9, None), [], False, 5),
        (PartitionRange(0, 5, 9, 3), [], False, 5),
        (PartitionRange(0, 5, 9, 3), [0], False, 3),
        (PartitionRange(0, 5, 9, 7), [0], False, 5),
        (PartitionRange(0, 5, 9, None), [0], False, 0),
        (PartitionRange(0, 5, 9, None), [0], True, 5),
        (PartitionRange(0, 5, 9, 3), [1], False, 5),
    ],
)
def test_removed_records_of_a_worker_in_progress_are_not_lost_before_the_commit(
    span: PartitionRange, owned: list[int], shares: bool, removed: int
) -> None:
    assert loss_bounds(1, [span], owned, share_group=shares, results_applied=False).removed == {0: removed}


@pytest.mark.parametrize(
    ("span", "shares", "applied", "passed"),
    [
        (PartitionRange(0, 0, 9, 7), False, True, {0: 7}),
        (PartitionRange(0, 0, 9, 7), False, False, {}),
        (PartitionRange(0, 0, 9, 7), True, True, {}),
        (PartitionRange(0, 0, 5, 7), False, True, {}),
        (PartitionRange(0, 0, 9, None), False, True, {0: 0}),
    ],
)
def test_committed_requests_are_lost_when_all_results_are_applied(
    span: PartitionRange, shares: bool, applied: bool, passed: dict[int, int]
) -> None:
    assert loss_bounds(1, [span], [], share_group=shares, results_applied=applied).passed == passed


def test_results_are_applied_when_the_sync_has_reached_every_end() -> None:
    assert results_applied({0: 3, 1: 0}, {0: 3})
    assert results_applied({0: 3}, {0: 4})
    assert not results_applied({0: 3, 1: 1}, {0: 3})
