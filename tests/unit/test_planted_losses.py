"""Planted losses: what is expected to be lost, and every difference between that and what is named."""

import pytest

from filemill.lab.planted_losses import PlantedLosses
from filemill.verification.report import Report
from filemill.verification.topic_history import Execution


def result(file_id: int, run: int = 1) -> Execution:
    return Execution(0, file_id, file_id, run, "a", "completed", 1, None, None, 10.0)


def report(*ids: int, check: str = "request-gone") -> Report:
    made = Report()
    for file_id in ids:
        made.add_finding(check, f"{file_id} (partition 0, offset 7)")
    return made


def test_a_request_that_was_removed_is_lost_unless_a_worker_ended_that_run() -> None:
    losses = PlantedLosses(requests={(1, 1), (2, 1), (3, 2)})
    assert losses.expected([result(2), result(3, run=1)]) == {1, 3}
    losses.executions = [result(1)]  # on a topic of results that is gone, and applied
    assert losses.expected([]) == {2, 3}


def test_a_result_that_was_removed_unread_is_lost_unless_it_was_announced_again() -> None:
    losses = PlantedLosses(results={(1, 1), (2, 1)}, executions=[result(1), result(2)])
    assert losses.expected([result(2)]) == {1}


def test_what_is_named_exactly_is_nothing_to_complain_of() -> None:
    losses = PlantedLosses(requests={(1, 1), (2, 1)})
    both = report(1)
    both.add_finding("lost", "2 (partition 0, offset 8: committed, and without a result)")
    losses.compare({1, 2}, {1, 2}, [1, 2], both)
    assert (losses.problems, losses.reported) == ([], 2)
    losses.clear()
    assert losses.files == set()


@pytest.mark.parametrize(
    ("left", "gone", "named", "words"),
    [
        ({1, 2, 3}, [1, 2], report(1, 2), "3 did not end, and no fault had taken them"),
        ({1, 2}, [1, 2], report(1), "verify names 1 as lost"),
        ({1, 2}, [1, 2], report(1, 3), "such as 3"),
        ({1, 2}, [1, 2], report(1, 2, 3), "verify names 3 as lost, such as 3, not 2"),
        ({1, 2}, [1], report(1, 2), "2 are not found by retry --lost; none are not lost"),
        ({1, 2}, [1, 2, 3], report(1, 2), "none are not found by retry --lost; 3 are not lost"),
    ],
)
def test_each_difference_is_a_complaint(left: set[int], gone: list[int], named: Report, words: str) -> None:
    losses = PlantedLosses(requests={(1, 1), (2, 1)})
    losses.compare({1, 2}, left, gone, named)
    (complaint,) = losses.problems
    assert words in complaint


def test_another_finding_and_a_fault_that_took_nothing_are_complaints() -> None:
    losses = PlantedLosses(requests={(1, 1)})
    losses.compare(set(), set(), [], report(1, check="object-missing"))
    assert losses.problems == [
        "a fault that removes records took nothing away",
        "with planted losses verify finds also object-missing",
    ]
