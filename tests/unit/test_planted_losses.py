"""Planted losses: the expected losses, and every difference from the reported ones."""

import pytest

from filemill.lab.planted_losses import PlantedLosses
from filemill.verification.findings import FindingCode
from filemill.verification.report import VerificationReport
from filemill.verification.topic_history import Execution


def result(file_id: int, run: int = 1) -> Execution:
    return Execution(0, file_id, file_id, run, "a", "completed", 1, None, None, 10.0)


def report(*ids: int, code: FindingCode = FindingCode.REQUEST_GONE) -> VerificationReport:
    made = VerificationReport()
    for file_id in ids:
        made.add_finding(code, f"{file_id} (partition 0, offset 7)", file_id)
    return made


def test_a_removed_request_is_lost_unless_a_worker_ended_its_run() -> None:
    losses = PlantedLosses(requests={(1, 1), (2, 1), (3, 2)})
    assert losses.expected([result(2), result(3, run=1)]) == {1, 3}
    losses.executions = [result(1)]  # on a topic of results that is gone, and applied
    assert losses.expected([]) == {2, 3}


def test_a_removed_unread_result_is_lost_unless_it_was_published_again() -> None:
    losses = PlantedLosses(results={(1, 1), (2, 1)}, executions=[result(1), result(2)])
    assert losses.expected([result(2)]) == {1}


def test_exactly_reported_losses_are_no_problem() -> None:
    losses = PlantedLosses(requests={(1, 1), (2, 1)})
    both = report(1)
    both.add_finding(FindingCode.LOST, "2 (partition 0, offset 8: committed without a result)", 2)
    losses.compare({1, 2}, {1, 2}, [1, 2], both)
    assert (losses.problems, losses.reported) == ([], 2)
    losses.clear()
    assert losses.files == set()


@pytest.mark.parametrize(
    ("left", "gone", "named", "words"),
    [
        ({1, 2, 3}, [1, 2], report(1, 2), "3 did not end, although no fault removed them"),
        ({1, 2}, [1, 2], report(1), "verify reports 1 lost files, not 2"),
        ({1, 2}, [1, 2], report(1, 3), "not expected: 3"),
        ({1, 2}, [1, 2], report(1, 2, 3), "verify reports 3 lost files, not 2; not expected: 3"),
        ({1, 2}, [1], report(1, 2), "retry --lost misses 2 and includes none by mistake"),
        ({1, 2}, [1, 2, 3], report(1, 2), "retry --lost misses none and includes 3 by mistake"),
    ],
)
def test_each_difference_is_a_problem(left: set[int], gone: list[int], named: VerificationReport, words: str) -> None:
    losses = PlantedLosses(requests={(1, 1), (2, 1)})
    losses.compare({1, 2}, left, gone, named)
    (problem,) = losses.problems
    assert words in problem


def test_other_findings_and_a_fault_without_effect_are_problems() -> None:
    losses = PlantedLosses(requests={(1, 1)})
    losses.compare(set(), set(), [], report(1, code=FindingCode.OBJECT_MISSING))
    assert losses.problems == [
        "a fault that removes records removed none",
        "verify reports other findings than the planted losses: object-missing",
    ]
