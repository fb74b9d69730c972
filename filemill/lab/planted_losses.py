"""Losses that faults plant: what they removed, and what must be reported as lost afterwards.

The expected losses come from the topics, read before and after the fault. The reported losses come from `verify` and
from the use case of `filemill retry --lost`. Both must be equal.
"""

from collections.abc import Iterable, Sequence

import msgspec

from filemill.services.operations import Operations
from filemill.verification.findings import LOST_CODES
from filemill.verification.report import VerificationReport
from filemill.verification.topic_history import Execution, RecordPosition, execution_of
from filemill.verification.topics import TopicScanner

PAGE = 1000

# A file id and a run.
FileRun = tuple[int, int]


class StoredResult(msgspec.Struct, frozen=True):
    """An execution that a result reports, with the result's own partition and offset."""

    partition: int
    offset: int
    execution: Execution


class PlantedLosses(msgspec.Struct):
    """What the faults of one lab have removed."""

    # Unfinished runs whose requests were removed. A worker that has read one still ends it.
    requests: set[FileRun] = set()
    # Unfinished runs whose results were removed before the sync had read them.
    results: set[FileRun] = set()
    # The executions that results on deleted topics reported.
    executions: list[Execution] = []
    # When requests were removed.
    removed: dict[RecordPosition, float] = {}
    # The number of losses that `verify` reported.
    reported: int = 0
    problems: list[str] = []

    @property
    def files(self) -> set[int]:
        """The files that may be lost."""
        return {file_id for file_id, _ in self.requests | self.results}

    def expected(self, present: Iterable[Execution]) -> set[int]:
        """The files that are lost, given the executions on the present topic of results."""
        ended = {(one.file_id, one.run) for one in present}
        ever_ended = ended | {(one.file_id, one.run) for one in self.executions}
        return {file_id for file_id, _ in (self.requests - ever_ended) | (self.results - ended)}

    def compare(
        self, expected: set[int], unfinished: set[int], retryable: Sequence[int], report: VerificationReport
    ) -> None:
        """Compare the expected losses with the unfinished files and both reports; add differences to `problems`."""
        named = {file_id for code in LOST_CODES & report.findings.keys() for file_id in report.findings[code].file_ids}
        self.reported += report.lost
        found = []
        if unfinished - expected:
            found.append(f"{_some(unfinished - expected)} did not end, although no fault removed them")
        if not expected:
            found.append("a fault that removes records removed none")
        if report.lost != len(expected) or not named <= expected:
            extra = _some(named - expected)
            found.append(f"verify reports {report.lost} lost files, not {len(expected)}; not expected: {extra}")
        if set(retryable) != expected:
            missing, extra = _some(expected - set(retryable)), _some(set(retryable) - expected)
            found.append(f"retry --lost misses {missing} and includes {extra} by mistake")
        if others := sorted(report.findings.keys() - LOST_CODES):
            found.append(f"verify reports other findings than the planted losses: {', '.join(others)}")
        self.problems = [*self.problems, *found]

    def clear(self) -> None:
        """Forget the losses, after all were resubmitted."""
        self.requests, self.results = set(), set()


def read_results(scanner: TopicScanner) -> list[StoredResult]:
    """The executions on the topic of results that the scanner has not read yet. Raises Unavailable."""
    return [
        StoredResult(record.partition, record.offset, execution)
        for record in scanner.results()
        if (execution := execution_of(record)) is not None
    ]


def all_lost(operations: Operations) -> list[int]:
    """Every file that `filemill retry --lost` would resubmit. Raises Unavailable."""
    found: list[int] = []
    while page := operations.gone_requests(after=found[-1] if found else 0, limit=PAGE):
        found += page
    return found


def _some(ids: set[int]) -> str:
    return ", ".join(map(str, sorted(ids)[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "") or "none"
