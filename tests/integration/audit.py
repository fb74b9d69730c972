"""The audit of all commits (filemill.verification.commits) for tests with faults."""

from collections.abc import Iterable

from filemill.adapters.kafka.commits import read_commits
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.entrypoints import bootstrap
from filemill.verification.commits import audit
from filemill.verification.topic_history import OwnershipPeriod, read_history
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import Process


def audit_commits(harness: PipelineHarness, processors: Iterable[Process], queue: str = DEFAULT_QUEUE) -> int:
    """Fail for commits that passed an unfinished record or were not the owner's; returns the number of commits.

    The owners come from the workers' logs, which survive a kill.
    """
    settings, admin = harness.settings.of_queue(queue), bootstrap.kafka_admin(harness.settings)
    history = read_history(settings, admin)
    parts = admin.offsets(None, settings.topic_create)
    ends = {part.partition: part.end or 0 for part in parts}
    found = audit(read_commits(settings), ends, history, _ownerships(processors, queue))
    assert found.ok, [f"{finding.title} ({finding.count}): {finding.examples}" for finding in found.findings.values()]
    return found.commits


def _ownerships(processors: Iterable[Process], queue: str) -> list[OwnershipPeriod]:
    return [
        OwnershipPeriod(since, line["worker"], line["epoch"], partition, reported_at=since)
        for processor in processors
        for line in processor.lines("Partitions assigned")
        if line.get("queue", DEFAULT_QUEUE) == queue
        for since in [topics.parse_timestamp(line["timestamp"])]
        for partition in line["partitions"]
    ]
