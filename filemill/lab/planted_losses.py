"""Losses that a fault plants: what it takes away, and what has to be named as lost afterwards, that and nothing else.

What is expected comes from the topics as they were read before and after; what is named comes from `verify` and from
the use case behind `filemill retry --lost`.
"""

from collections.abc import Iterable, Sequence

import msgspec

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.reader import read_topic
from filemill.config.settings import Settings
from filemill.services.operations import Operations
from filemill.verification.report import LOST, Report
from filemill.verification.topic_history import Execution, RecordPosition, execution_in

PAGE = 1000

Run = tuple[int, int]


class StoredResult(msgspec.Struct, frozen=True):
    """An execution as the results tell it, and where on their topic."""

    partition: int
    offset: int
    execution: Execution


class PlantedLosses(msgspec.Struct):
    """What the faults of one lab have taken away. Runs are (file, run)."""

    # Unfinished runs whose requests were removed; a worker that had read one still ends it.
    requests: set[Run] = set()
    # Unfinished runs whose results were removed before the sync had read them.
    results: set[Run] = set()
    # All that topics of results told that are gone.
    executions: list[Execution] = []
    # The places of removed requests, and when they were removed.
    removed: dict[RecordPosition, float] = {}
    reported: int = 0
    problems: list[str] = []

    @property
    def files(self) -> set[int]:
        """The files that may be lost."""
        return {file_id for file_id, _ in self.requests | self.results}

    def expected(self, present: Iterable[Execution]) -> set[int]:
        """The files that are lost, by the results that are on their topic now."""
        ended = {(one.file_id, one.run) for one in present}
        ever = ended | {(one.file_id, one.run) for one in self.executions}
        return {file_id for file_id, _ in (self.requests - ever) | (self.results - ended)}

    def compare(self, expected: set[int], left: set[int], gone: Sequence[int], report: Report) -> None:
        """Compare what is lost with what did not end and with what is named, and keep the differences."""
        named = {int(one.split()[0]) for check in LOST & report.findings.keys() for one in _examples(report, check)}
        self.reported += report.lost
        found = [f"{_some(left - expected)} did not end, and no fault had taken them"] if left - expected else []
        if not expected:
            found.append("a fault that removes records took nothing away")
        if report.lost != len(expected) or not named <= expected:
            found.append(f"verify names {report.lost} as lost, such as {_some(named - expected)}, not {len(expected)}")
        if set(gone) != expected:
            missing, beyond = expected - set(gone), set(gone) - expected
            found.append(f"of the lost, {_some(missing)} are not found by retry --lost; {_some(beyond)} are not lost")
        if others := sorted(report.findings.keys() - LOST):
            found.append(f"with planted losses verify finds also {', '.join(others)}")
        self.problems = [*self.problems, *found]

    def clear(self) -> None:
        """All that was lost has been submitted again."""
        self.requests, self.results = set(), set()


def read_results(settings: Settings, admin: KafkaAdmin, since: dict[int, int]) -> list[StoredResult]:
    """What the topic of results tells from these offsets on, which are moved to the ends. Raises Unavailable."""
    topic = settings.topic_created
    parts = admin.offsets(None, topic)
    places = {(topic, partition): offset for partition, offset in since.items()}
    found = [
        StoredResult(record.partition, record.offset, execution)
        for record in read_topic(settings, topic, parts, "lab", places)
        if (execution := execution_in(record)) is not None
    ]
    since.update({part.partition: part.end or 0 for part in parts})
    return found


def all_lost(operations: Operations) -> list[int]:
    """Every file that `filemill retry --lost` would submit again. Raises Unavailable."""
    found: list[int] = []
    while page := operations.gone(after=found[-1] if found else 0, limit=PAGE):
        found += page
    return found


def _examples(report: Report, check: str) -> list[str]:
    return report.findings[check].examples


def _some(ids: set[int]) -> str:
    return ", ".join(map(str, sorted(ids)[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "") or "none"
