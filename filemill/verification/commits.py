"""Audits every commit of the group and every execution.

Each commit is checked against the records that were finished and the owner of the partition at that moment (invariants
4 and 6). `verify` checks the last commit only, so it misses an early commit whose records finished later. Each
execution is checked against the commits at the moment of its assignment (invariant 7).

Pure. All moments must be from one clock, or from clocks of one machine.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from filemill.domain.offsets import CommitMetadata, RecordedReset, StoredCommit, decode_metadata
from filemill.verification.findings import FindingCode, FindingCollection
from filemill.verification.topic_history import NEVER, Execution, OwnershipPeriod, RecordPosition, TopicHistory

# A reset is recorded before it is sent to the broker, which may take this long.
RESET_SECONDS = 60.0
# Timestamps are truncated to milliseconds by the producer and by the broker.
CLOCK_SECONDS = 0.002
# A worker's revoked event and its last commit reach the broker over two connections. A broker that was suspended may
# process them in either order.
REVOKED_SECONDS = 0.5
# The event of an assignment may reach the topic this long after a commit of that assignment: a broker that was
# suspended takes the commit first, and the producer of events backs off.
EVENT_DELAY_SECONDS = 30.0


class CommitAudit(FindingCollection):
    """Counts and findings of an audit."""

    commits: int = 0
    resets: int = 0
    executions: int = 0
    executed_again: int = 0


def combine(audits: Iterable[CommitAudit]) -> CommitAudit:
    """The audits of several queues as one."""
    total = CommitAudit()
    for one in audits:
        total.commits += one.commits
        total.resets += one.resets
        total.executions += one.executions
        total.executed_again += one.executed_again
        for code, finding in one.findings.items():
            for example in finding.examples:
                total.add_finding(code, example)
            total.findings[code].count += finding.count - len(finding.examples)
    return total


def audit(
    commits: Sequence[StoredCommit],
    ends: Mapping[int, int],
    history: TopicHistory,
    ownerships: Iterable[OwnershipPeriod],
) -> CommitAudit:
    """Check all commits, in the order of their moments, and all executions of the history.

    `ends` is each partition's end. Offsets without a record, such as transaction markers and removed records, need no
    result. An offset reset by an operator is a commit without a worker; it must be recorded in the audit log. A commit
    belongs to the topic whose id it names, else to the one that had the name `file.create` at its moment.
    """
    result = CommitAudit(commits=len(commits), executions=len(history.executions))
    expected = list(history.resets)
    owners = _by_partition(ownerships)
    known = _moments(history)
    present = len(history.recreations)
    for commit in commits:
        generation = history.generation_of(commit)
        end = ends.get(commit.partition, 0) if generation == present else math.inf
        if commit.offset > end:
            result.add_finding(FindingCode.COMMIT_BEYOND_END, commit)
            continue
        moments = known.get((generation, commit.partition), _Moments({}))
        if moments.below(commit.offset) > commit.at + CLOCK_SECONDS:
            result.add_finding(FindingCode.COMMIT_PASSED_UNFINISHED, commit)
        metadata, beyond = decode_metadata(commit.metadata, commit.offset)
        for offset in beyond:
            if offset >= end or moments.of(offset) > commit.at + CLOCK_SECONDS:
                result.add_finding(FindingCode.COMMIT_CLAIMS_UNFINISHED, f"{offset} in {commit}")
        unsigned = metadata is None or not metadata.worker
        if unsigned and _match_reset(expected, commit):
            result.resets += 1
            continue
        if metadata is None or unsigned:
            result.add_finding(FindingCode.COMMIT_UNSIGNED, commit)
            continue
        _check_owner(commit, metadata, owners.get(commit.partition, _Owners()), result)
    _check_executions(commits, owners, history, result)
    return result


def _check_owner(commit: StoredCommit, signed: CommitMetadata, owners: "_Owners", result: CommitAudit) -> None:
    """Check that the committing worker owned the partition, in the epoch of the metadata, at that moment."""
    owner = owners.at(commit.at)
    if owner is None or (owner.worker, owner.epoch) != (signed.worker, signed.epoch):
        if not owners.reported_late(commit.at, signed):
            result.add_finding(FindingCode.COMMIT_BY_NON_OWNER, f"{commit}; the owner was {owner}")
    elif commit.at > owner.until + REVOKED_SECONDS:
        result.add_finding(FindingCode.COMMIT_BY_NON_OWNER, f"{commit}; it was revoked at {owner.until:.3f}")


class _Moments:
    """When each record of a partition finished or was removed. An offset without a record counts as finished."""

    def __init__(self, moments: Mapping[int, float]) -> None:
        self._moments = moments
        self._offsets = sorted(moments)
        # When all records up to each offset were finished: the greatest of their moments.
        self._all_by = [0.0, *accumulate((moments[offset] for offset in self._offsets), max)]

    def of(self, offset: int) -> float:
        return self._moments.get(offset, 0.0)

    def below(self, offset: int) -> float:
        return self._all_by[bisect_left(self._offsets, offset)]


def _moments(history: TopicHistory) -> dict[tuple[int, int], _Moments]:
    """By generation and partition."""
    moments = history.finished()
    for request in history.requests:
        position = history.position_of(request)
        if position not in moments:
            # Its result may have been on a topic that was deleted.
            moments[position] = 0.0 if request.at < history.results_since else NEVER
    for position, at in history.removed.items():
        moments[position] = min(at, moments.get(position, NEVER))
    by_partition: dict[tuple[int, int], dict[int, float]] = {}
    for (generation, partition, offset), at in moments.items():
        by_partition.setdefault((generation, partition), {})[offset] = at
    return {key: _Moments(found) for key, found in by_partition.items()}


def _match_reset(expected: list[RecordedReset], commit: StoredCommit) -> bool:
    """Whether the commit is one of these resets. The reset is removed, because it explains only one commit."""
    for index, reset in enumerate(expected):
        matches = (reset.partition, reset.new) == (commit.partition, commit.offset)
        if matches and reset.at - CLOCK_SECONDS <= commit.at <= reset.at + RESET_SECONDS:
            del expected[index]
            return True
    return False


class _Owners:
    """The ownership periods of one partition, by their beginnings."""

    def __init__(self) -> None:
        self._all: list[OwnershipPeriod] = []
        self._begins: list[float] = []

    def add(self, ownership: OwnershipPeriod) -> None:
        self._all.append(ownership)
        self._begins.append(ownership.at)

    def at(self, moment: float) -> OwnershipPeriod | None:
        """The last period that began by a moment."""
        index = bisect_right(self._begins, moment + CLOCK_SECONDS) - 1
        return self._all[index] if index >= 0 else None

    def reported_late(self, moment: float, signed: CommitMetadata) -> bool:
        """Whether the worker owned the partition by its own clock, and its event reached the topic after the commit.

        A broker that was suspended may process a commit before an event that was published earlier. A worker increments
        its epoch at each assignment, so it cannot have used this epoch before.
        """
        for ownership in self._all[bisect_right(self._begins, moment + CLOCK_SECONDS) :]:
            if ownership.at > moment + EVENT_DELAY_SECONDS:
                return False
            if (ownership.worker, ownership.epoch) == (signed.worker, signed.epoch):
                return ownership.reported_at <= moment + CLOCK_SECONDS
        return False

    def of(self, execution: Execution) -> OwnershipPeriod | None:
        """The assignment in which a worker began an execution, by the worker's clock.

        The result of an execution from an earlier assignment may reach the topic after the next assignment.
        """
        if execution.started_at is None:
            return None
        began = execution.started_at.timestamp()
        for index in range(bisect_right(self._begins, execution.at + CLOCK_SECONDS) - 1, -1, -1):
            ownership = self._all[index]
            if ownership.worker == execution.worker and ownership.reported_at <= began + CLOCK_SECONDS:
                return ownership
        return None


def _by_partition(ownerships: Iterable[OwnershipPeriod]) -> dict[int, _Owners]:
    owners: dict[int, _Owners] = {}
    for ownership in sorted(ownerships):
        owners.setdefault(ownership.partition, _Owners()).add(ownership)
    return owners


def _check_executions(
    commits: Sequence[StoredCommit], owners: Mapping[int, _Owners], history: TopicHistory, result: CommitAudit
) -> None:
    """Check that no worker executed a record twice, or one that a commit covered at its assignment."""
    covered = _CommittedRecords(commits, history)
    done: set[tuple[RecordPosition, OwnershipPeriod]] = set()
    seen: set[RecordPosition] = set()
    for execution, position in zip(history.executions, history.executed_positions(), strict=True):
        result.executed_again += position in seen
        seen.add(position)
        ownership = owners.get(execution.partition, _Owners()).of(execution)
        if ownership is None:
            continue  # no assignment was reported: the check of commits finds it where it matters
        where = f"partition {position.partition}, offset {position.offset}"
        if (position, ownership) in done:
            result.add_finding(FindingCode.EXECUTED_TWICE, f"{where} by {ownership.worker}")
        done.add((position, ownership))
        if covered.at(position, ownership.at - CLOCK_SECONDS):
            where = f"{where} by {ownership.worker}, assigned at {ownership.at:.3f}"
            result.add_finding(FindingCode.EXECUTED_THOUGH_COMMITTED, where)


class _CommittedRecords:
    """The records that the commits of each partition covered at a moment."""

    def __init__(self, commits: Sequence[StoredCommit], history: TopicHistory) -> None:
        self._commits: dict[tuple[int, int], list[StoredCommit]] = {}
        for commit in commits:
            key = history.generation_of(commit), commit.partition
            self._commits.setdefault(key, []).append(commit)
        self._decoded: dict[tuple[int, int, int], frozenset[int]] = {}

    def at(self, position: RecordPosition, moment: float) -> bool:
        """Whether the last commit before the moment covers the record, by its offset or its metadata."""
        generation, partition, offset = position
        made = self._commits.get((generation, partition), [])
        index = bisect_right(made, moment, key=lambda commit: commit.at) - 1
        if index < 0:
            return False
        if offset < made[index].offset:
            return True
        key = generation, partition, index
        if key not in self._decoded:
            self._decoded[key] = frozenset(decode_metadata(made[index].metadata, made[index].offset)[1])
        return offset in self._decoded[key]
