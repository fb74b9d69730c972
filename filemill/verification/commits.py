"""Every commit that the group ever made, against what was finished and who owned the partition at that moment.

`verify` looks at the last commit; a commit that was too early and then caught up with is seen only here (invariants 4
and 6). And every execution, against what was committed when its worker got the partition (invariant 7).

Pure. All moments must be of one clock, or of clocks of one machine.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import msgspec

from filemill.offsets import CommitSeen, ResetSeen, decode_metadata
from filemill.verification.history import NEVER, Execution, History, Ownership, Place
from filemill.verification.report import Finding

# A reset is recorded before the broker is asked, which may take so long.
RESET_SECONDS = 60.0
# A producer's milliseconds and the broker's are each cut.
CLOCK_SECONDS = 0.002
# A worker's word that it gave a partition up and its last commit reach the broker over two connections: one that was
# stopped in between may take them in either order.
REVOKED_SECONDS = 0.5

CHECKS = {
    "commit-passed-unfinished": "4: a commit passed a record that was not finished at that moment",
    "commit-claims-unfinished": "4: a commit's metadata calls a record finished that was not, at that moment",
    "commit-beyond-end": "4: a commit lies beyond the end of its partition",
    "commit-unsigned": "6: a commit does not say which worker made it, in which epoch",
    "commit-by-non-owner": "6: a commit for a partition that was not, or no longer, the worker's",
    "executed-though-committed": "7: a record was executed again though a commit covered it when its worker came",
    "executed-twice-in-one-assignment": "7: a worker executed a record twice in one assignment",
}


class Audit(msgspec.Struct):
    """What was looked at, and what broke a promise."""

    commits: int = 0
    resets: int = 0
    executions: int = 0
    executed_again: int = 0
    findings: dict[str, Finding] = {}

    def found(self, check: str, example: object) -> None:
        """Note a case of a broken promise."""
        if check not in self.findings:
            self.findings = {**self.findings, check: Finding(check, CHECKS[check])}
        self.findings[check].add(example)

    @property
    def ok(self) -> bool:
        """Whether no promise was seen broken."""
        return not self.findings


def audit(
    commits: Sequence[CommitSeen],
    ends: Mapping[int, int],
    history: History,
    ownerships: Iterable[Ownership],
) -> Audit:
    """Check all commits, in the order of their moments, and all executions of the history.

    `ends` is each partition's end. Offsets without a record, as of a transaction's marker or of what was removed, need
    no result. A move of the offsets by a person is a commit that no worker signed; without a reset on record it is
    nobody's. A commit is about the topic whose id it names, or that had the name `file.create` at its moment.
    """
    result = Audit(commits=len(commits), executions=len(history.executions))
    expected = list(history.resets)
    owners = _by_partition(ownerships)
    known = _moments(history)
    present = len(history.recreations)
    for commit in commits:
        generation = history.generation_of(commit)
        end = ends.get(commit.partition, 0) if generation == present else math.inf
        if commit.offset > end:
            result.found("commit-beyond-end", commit)
            continue
        moments = known.get((generation, commit.partition), _Moments({}))
        if moments.below(commit.offset) > commit.at + CLOCK_SECONDS:
            result.found("commit-passed-unfinished", commit)
        metadata, beyond = decode_metadata(commit.metadata, commit.offset)
        for offset in beyond:
            if offset >= end or moments.of(offset) > commit.at + CLOCK_SECONDS:
                result.found("commit-claims-unfinished", f"{offset} in {commit}")
        unsigned = metadata is None or not metadata.worker
        if unsigned and _take(expected, commit):
            result.resets += 1
            continue
        if metadata is None or unsigned:
            result.found("commit-unsigned", commit)
            continue
        owner = owners.get(commit.partition, _Owners()).at(commit.at)
        if owner is None or (owner.worker, owner.epoch) != (metadata.worker, metadata.epoch):
            result.found("commit-by-non-owner", f"{commit}; the owner was {owner}")
        elif commit.at > owner.until + REVOKED_SECONDS:
            result.found("commit-by-non-owner", f"{commit}; it had been revoked at {owner.until:.3f}")
    _check_executions(commits, owners, history, result)
    return result


class _Moments:
    """When the records of one partition were finished, or needed it no more. An offset without a record needs none."""

    def __init__(self, moments: Mapping[int, float]) -> None:
        self._moments = moments
        self._offsets = sorted(moments)
        # When all records up to each were finished: the greatest of their moments.
        self._all_by = [0.0, *accumulate((moments[offset] for offset in self._offsets), max)]

    def of(self, offset: int) -> float:
        return self._moments.get(offset, 0.0)

    def below(self, offset: int) -> float:
        return self._all_by[bisect_left(self._offsets, offset)]


def _moments(history: History) -> dict[tuple[int, int], _Moments]:
    """By generation and partition."""
    moments = history.finished()
    for request in history.requests:
        place = history.place_of(request)
        if place not in moments:
            # Its result may have been on a topic that is gone.
            moments[place] = 0.0 if request.at < history.results_since else NEVER
    for place, at in history.removed.items():
        moments[place] = min(at, moments.get(place, NEVER))
    by_partition: dict[tuple[int, int], dict[int, float]] = {}
    for (generation, partition, offset), at in moments.items():
        by_partition.setdefault((generation, partition), {})[offset] = at
    return {key: _Moments(found) for key, found in by_partition.items()}


def _take(expected: list[ResetSeen], commit: CommitSeen) -> bool:
    """Whether the commit is one of these resets, which then is taken out: each explains one commit."""
    for index, reset in enumerate(expected):
        meant = (reset.partition, reset.new) == (commit.partition, commit.offset)
        if meant and reset.at - CLOCK_SECONDS <= commit.at <= reset.at + RESET_SECONDS:
            del expected[index]
            return True
    return False


class _Owners:
    """The ownerships of one partition, by their beginnings."""

    def __init__(self) -> None:
        self._all: list[Ownership] = []
        self._begins: list[float] = []

    def add(self, ownership: Ownership) -> None:
        self._all.append(ownership)
        self._begins.append(ownership.at)

    def at(self, moment: float) -> Ownership | None:
        """The last that began by then."""
        index = bisect_right(self._begins, moment + CLOCK_SECONDS) - 1
        return self._all[index] if index >= 0 else None

    def of(self, execution: Execution) -> Ownership | None:
        """The assignment in which a worker began an execution: both moments are by the worker's own clock.

        What it had begun in an earlier assignment can come to the topic after it was assigned the partition anew.
        """
        if execution.started_at is None:
            return None
        began = execution.started_at.timestamp()
        for index in range(bisect_right(self._begins, execution.at + CLOCK_SECONDS) - 1, -1, -1):
            ownership = self._all[index]
            if ownership.worker == execution.worker and ownership.said_at <= began + CLOCK_SECONDS:
                return ownership
        return None


def _by_partition(ownerships: Iterable[Ownership]) -> dict[int, _Owners]:
    owners: dict[int, _Owners] = {}
    for ownership in sorted(ownerships):
        owners.setdefault(ownership.partition, _Owners()).add(ownership)
    return owners


def _check_executions(
    commits: Sequence[CommitSeen], owners: Mapping[int, _Owners], history: History, result: Audit
) -> None:
    """Each execution was of a record that no commit covered when its worker got the partition; once an assignment."""
    covered = _Coverage(commits, history)
    done: set[tuple[Place, Ownership]] = set()
    seen: set[Place] = set()
    for execution, place in zip(history.executions, history.executed_places(), strict=True):
        result.executed_again += place in seen
        seen.add(place)
        ownership = owners.get(execution.partition, _Owners()).of(execution)
        if ownership is None:
            continue  # its assignment is not on record: the audit of commits says so where it matters
        where = f"partition {place.partition}, offset {place.offset}"
        if (place, ownership) in done:
            result.found("executed-twice-in-one-assignment", f"{where} by {ownership.worker}")
        done.add((place, ownership))
        if covered.at(place, ownership.at - CLOCK_SECONDS):
            result.found("executed-though-committed", f"{where} by {ownership.worker}, assigned at {ownership.at:.3f}")


class _Coverage:
    """What the commits of each partition had covered at a moment."""

    def __init__(self, commits: Sequence[CommitSeen], history: History) -> None:
        self._commits: dict[tuple[int, int], list[CommitSeen]] = {}
        for commit in commits:
            key = history.generation_of(commit), commit.partition
            self._commits.setdefault(key, []).append(commit)
        self._decoded: dict[tuple[int, int, int], frozenset[int]] = {}

    def at(self, place: Place, moment: float) -> bool:
        """Whether the last commit before the moment covers the record, by its offset or its metadata."""
        generation, partition, offset = place
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
