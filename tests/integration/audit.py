"""The audit of every commit (filemill.verification.commits), as the fault tests use it."""

from collections.abc import Iterable

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.commits import read_commits
from filemill.verification.commits import audit
from filemill.verification.topic_history import OwnershipPeriod, read_history
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import Process


def audit_commits(harness: PipelineHarness, processors: Iterable[Process]) -> int:
    """Fail the test for commits that passed an unfinished record or were not their owner's; returns how many there are.

    Who owned what is taken from the workers' logs, which a kill does not lose.
    """
    admin = KafkaAdmin(harness.settings)
    history = read_history(harness.settings, admin)
    parts = admin.offsets(None, harness.settings.topic_create)
    ends = {part.partition: part.end or 0 for part in parts}
    found = audit(read_commits(harness.settings), ends, history, _ownerships(processors))
    assert found.ok, [f"{finding.title} ({finding.count}): {finding.examples}" for finding in found.findings.values()]
    return found.commits


def _ownerships(processors: Iterable[Process]) -> list[OwnershipPeriod]:
    return [
        OwnershipPeriod(
            moment := topics.moment(line["timestamp"]), line["worker"], line["epoch"], partition, reported_at=moment
        )
        for processor in processors
        for line in processor.lines("Partitions assigned")
        for partition in line["partitions"]
    ]
