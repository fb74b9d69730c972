"""Invariants and findings, each with a machine-readable code. The numbers are those of docs/guarantees.md."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

# The most ids or keys that one finding lists. The count covers all.
EXAMPLES_MAX = 20


class Invariant(StrEnum):
    """What must hold, whatever fails."""

    REQUESTS_END = "requests-end"
    OBJECTS_MATCH = "objects-match"
    NO_ORPHAN_OBJECTS = "no-orphan-objects"
    COMMITS_COVER_FINISHED = "commits-cover-finished"
    STATUS_NEVER_REGRESSES = "status-never-regresses"
    ONLY_OWNERS_COMMIT = "only-owners-commit"
    NO_COVERED_REPROCESSING = "no-covered-reprocessing"
    SEQUENCES_CYCLE = "sequences-cycle"
    PARTITIONS_PROGRESS = "partitions-progress"
    AUDIT_UNCHANGED = "audit-unchanged"

    @property
    def number(self) -> str:
        """Its number in docs/guarantees.md."""
        return str(list(Invariant).index(self) + 1)

    @property
    def statement(self) -> str:
        """The invariant in one sentence."""
        return _STATEMENTS[self]


_STATEMENTS = {
    Invariant.REQUESTS_END: "Every accepted request ends, with exactly one row",
    Invariant.OBJECTS_MATCH: "Every completed file has its object, with the requested content",
    Invariant.NO_ORPHAN_OBJECTS: "Every object belongs to a request",
    Invariant.COMMITS_COVER_FINISHED: "No commit passes an unfinished record",
    Invariant.STATUS_NEVER_REGRESSES: "Within a run, a status never moves backwards",
    Invariant.ONLY_OWNERS_COMMIT: "Only the owner of a partition commits its offsets",
    Invariant.NO_COVERED_REPROCESSING: "No record is reprocessed after a commit covered it",
    Invariant.SEQUENCES_CYCLE: "Sequence numbers are durable and cycle through the partitions",
    Invariant.PARTITIONS_PROGRESS: "While there is lag, records finish",
    Invariant.AUDIT_UNCHANGED: "No row of the audit log is missing, edited or out of order",
}


class FindingCode(StrEnum):
    """A way to violate an invariant."""

    # Found by `verify`.
    LOST = "lost"
    REQUEST_GONE = "request-gone"
    FAILED_WITHOUT_DEAD_LETTER = "failed-without-dead-letter"
    OBJECT_MISSING = "object-missing"
    OBJECT_DIFFERS = "object-differs"
    RENDER_DIFFERS = "render-differs"
    ORPHAN_OBJECT = "orphan-object"
    COMMITTED_UNFINISHED = "committed-unfinished"
    STATUS_UNSUPPORTED = "status-unsupported"
    STATUS_NOT_APPLIED = "status-not-applied"
    SEQUENCE_TWICE = "publish-number-twice"
    SEQUENCE_MISSING = "publish-number-missing"
    SEQUENCE_OUT_OF_TURN = "publish-out-of-turn"
    PARTITION_STALLED = "partition-stalled"
    AUDIT_CHANGED = "audit-changed"
    # Found by the audit of all commits and executions.
    COMMIT_PASSED_UNFINISHED = "commit-passed-unfinished"
    COMMIT_CLAIMS_UNFINISHED = "commit-claims-unfinished"
    COMMIT_BEYOND_END = "commit-beyond-end"
    COMMIT_UNSIGNED = "commit-unsigned"
    COMMIT_BY_NON_OWNER = "commit-by-non-owner"
    EXECUTED_THOUGH_COMMITTED = "executed-though-committed"
    EXECUTED_TWICE = "executed-twice-in-one-assignment"
    # Found by the lab, which also knows the load and the faults.
    NOT_ENDED = "not-ended"
    LOSSES_MISREPORTED = "losses-misreported"
    STATUS_REGRESSED = "status-regressed"
    NO_PROGRESS = "no-progress"

    @property
    def invariant(self) -> Invariant:
        """The invariant that it violates."""
        return _RULES[self][0]

    @property
    def meaning(self) -> str:
        """What it is, in one sentence."""
        return _RULES[self][1]


_RULES: dict[FindingCode, tuple[Invariant, str]] = {
    FindingCode.LOST: (Invariant.REQUESTS_END, "accepted requests that nothing in the system will end"),
    FindingCode.REQUEST_GONE: (
        Invariant.REQUESTS_END,
        "unfinished requests whose record is gone from Kafka; run `filemill retry --lost`",
    ),
    FindingCode.FAILED_WITHOUT_DEAD_LETTER: (
        Invariant.REQUESTS_END,
        "failed files of our workers without a dead letter",
    ),
    FindingCode.OBJECT_MISSING: (Invariant.OBJECTS_MATCH, "completed files whose object is not in the bucket"),
    FindingCode.OBJECT_DIFFERS: (
        Invariant.OBJECTS_MATCH,
        "objects that do not have the hash and size of the row",
    ),
    FindingCode.RENDER_DIFFERS: (
        Invariant.OBJECTS_MATCH,
        "objects that differ from a new render of the request, or are not under the request's key",
    ),
    FindingCode.ORPHAN_OBJECT: (
        Invariant.NO_ORPHAN_OBJECTS,
        "objects that no request asked for; run `filemill orphans delete`",
    ),
    FindingCode.COMMITTED_UNFINISHED: (
        Invariant.COMMITS_COVER_FINISHED,
        "records below the committed offset without a result",
    ),
    FindingCode.STATUS_UNSUPPORTED: (
        Invariant.STATUS_NEVER_REGRESSES,
        "terminal statuses that no event of the run reported",
    ),
    FindingCode.STATUS_NOT_APPLIED: (
        Invariant.STATUS_NEVER_REGRESSES,
        "unfinished rows although the sync has read a result of their run",
    ),
    FindingCode.SEQUENCE_TWICE: (Invariant.SEQUENCES_CYCLE, "sequence numbers on two partitions"),
    FindingCode.SEQUENCE_MISSING: (
        Invariant.SEQUENCES_CYCLE,
        "sequence numbers that are neither on the topic nor in the outbox",
    ),
    FindingCode.SEQUENCE_OUT_OF_TURN: (Invariant.SEQUENCES_CYCLE, "sequence numbers that break the round robin"),
    FindingCode.PARTITION_STALLED: (
        Invariant.PARTITIONS_PROGRESS,
        "partitions with lag and an owner whose committed offset does not advance",
    ),
    FindingCode.AUDIT_CHANGED: (
        Invariant.AUDIT_UNCHANGED,
        "differences of the audit log from its hash chain; `filemill audit verify` shows all",
    ),
    FindingCode.COMMIT_PASSED_UNFINISHED: (
        Invariant.COMMITS_COVER_FINISHED,
        "commits that passed a record that was not finished at that moment",
    ),
    FindingCode.COMMIT_CLAIMS_UNFINISHED: (
        Invariant.COMMITS_COVER_FINISHED,
        "commits whose metadata lists a record that was not finished at that moment",
    ),
    FindingCode.COMMIT_BEYOND_END: (Invariant.COMMITS_COVER_FINISHED, "commits beyond the end of their partition"),
    FindingCode.COMMIT_UNSIGNED: (Invariant.ONLY_OWNERS_COMMIT, "commits without worker id and epoch"),
    FindingCode.COMMIT_BY_NON_OWNER: (
        Invariant.ONLY_OWNERS_COMMIT,
        "commits for a partition that the worker did not own, or no longer owned",
    ),
    FindingCode.EXECUTED_THOUGH_COMMITTED: (
        Invariant.NO_COVERED_REPROCESSING,
        "records reprocessed although a commit covered them when the worker was assigned the partition",
    ),
    FindingCode.EXECUTED_TWICE: (
        Invariant.NO_COVERED_REPROCESSING,
        "records that a worker executed twice in one assignment",
    ),
    FindingCode.NOT_ENDED: (Invariant.REQUESTS_END, "accepted requests that had not ended at the end of the run"),
    FindingCode.LOSSES_MISREPORTED: (Invariant.REQUESTS_END, "differences between planted and reported losses"),
    FindingCode.STATUS_REGRESSED: (Invariant.STATUS_NEVER_REGRESSES, "statuses that moved backwards"),
    FindingCode.NO_PROGRESS: (Invariant.PARTITIONS_PROGRESS, "partitions with lag and no result for too long"),
}

_ALL = tuple(FindingCode)
VERIFY_CODES = _ALL[: _ALL.index(FindingCode.AUDIT_CHANGED) + 1]
# The codes that count accepted requests which nothing will end.
LOST_CODES = frozenset({FindingCode.LOST, FindingCode.REQUEST_GONE})


class Finding(msgspec.Struct):
    """A violated invariant: the code, the number of cases, and the first ids or keys."""

    check: FindingCode
    meaning: str
    invariant: Invariant
    count: int = 0
    examples: list[str] = []
    # The files of the examples, if the cases are files.
    file_ids: list[int] = []

    def add(self, example: object, file_id: int | None = None) -> None:
        """Count one more case."""
        self.count += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples = [*self.examples, str(example)]
            if file_id is not None:
                self.file_ids = [*self.file_ids, file_id]

    @property
    def title(self) -> str:
        """The number of the invariant and the meaning, for a line of text."""
        return f"invariant {self.invariant.number}: {self.meaning}"


def new_finding(code: FindingCode, examples: Sequence[str] = ()) -> Finding:
    """A finding with these cases."""
    return Finding(code, code.meaning, code.invariant, len(examples), list(examples[:EXAMPLES_MAX]))


class FindingCollection(msgspec.Struct):
    """Findings by code."""

    findings: dict[FindingCode, Finding] = {}

    def add_finding(self, code: FindingCode, example: object, file_id: int | None = None) -> None:
        """Count a case of a violated invariant."""
        if code not in self.findings:
            self.findings = {**self.findings, code: new_finding(code)}
        self.findings[code].add(example, file_id)

    @property
    def ok(self) -> bool:
        """Whether no invariant was violated."""
        return not self.findings
