"""What a verification found, and whether that is well."""

import msgspec

# Ids listed for one finding; the count is of all.
EXAMPLES = 20


class Finding(msgspec.Struct):
    """One way in which the system broke a promise: what, how often, and the first ids or keys that show it."""

    check: str
    meaning: str
    count: int = 0
    examples: list[str] = []

    def add(self, example: object) -> None:
        """Note one more case."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples = [*self.examples, str(example)]


# Each check by name, with what a hit means. The numbers are those of the invariants in docs/guarantees.md.
CHECKS = {
    "lost": "1: an accepted request that nothing in the system will ever end",
    "request-gone": "1: an accepted, unfinished request whose record is gone from Kafka: `filemill retry --lost`",
    "failed-without-dead-letter": "1: failed by one of our workers, and no message in the dead letters",
    "object-missing": "2: completed, and the object is not in the bucket",
    "object-differs": "2: the object's bytes do not have the row's hash and size",
    "render-differs": "2: the object is not what the request renders to, or not under the request's key",
    "orphan-object": "3: an object that no request asked for; `filemill orphans delete` clears them",
    "committed-unfinished": "4: the group's committed offset has passed a record without a result",
    "status-unsupported": "5: a terminal status that no event of that run reported",
    "status-not-applied": "5: an event that the sync has read ended this run, and the row does not show it",
    "publish-number-twice": "8: one publish number on two partitions",
    "publish-number-missing": "8: a publish number that is neither on the topic nor in the outbox",
    "publish-out-of-turn": "8: a publish number that breaks the round robin",
    "partition-stalled": "9: a partition has an owner and unread records, and its committed offset does not move",
}

# Those that name accepted requests which nothing will end.
LOST = frozenset({"lost", "request-gone"})


class Report(msgspec.Struct):
    """The result. `lost` and every finding count against the verdict; the rest is information."""

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    in_flight: int = 0
    deleted: int = 0
    foreign: int = 0
    superseded: int = 0
    repeats: int = 0
    duplicate_results: int = 0
    dead_letters: int = 0
    dead_letters_distinct: int = 0
    unreadable_events: int = 0
    objects: int = 0
    seconds: float = 0.0
    findings: dict[str, Finding] = {}
    notes: list[str] = []

    def add_finding(self, check: str, example: object) -> None:
        """Note a case of a broken promise."""
        if check not in self.findings:
            self.findings = {**self.findings, check: Finding(check, CHECKS[check])}
        self.findings[check].add(example)

    def add_note(self, sentence: str) -> None:
        """Note something that limits what could be checked."""
        self.notes = [*self.notes, sentence]

    @property
    def ok(self) -> bool:
        """Whether no promise was seen broken."""
        return not self.findings

    @property
    def lost(self) -> int:
        """Accepted requests that nothing will ever end."""
        return sum(self.findings[check].count for check in LOST & self.findings.keys())
