"""The result of a verification."""

import msgspec

from filemill.verification.findings import LOST_CODES, FindingCollection


class VerificationReport(FindingCollection):
    """Counts, findings and notes. Only findings make a verification fail; `seconds` is its duration.

    `leftovers` are the superseded objects that `filemill objects clean` deletes.
    """

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    in_flight: int = 0
    deleted: int = 0
    foreign: int = 0
    superseded: int = 0
    leftovers: int = 0
    open_uploads: int = 0
    repeats: int = 0
    duplicate_results: int = 0
    dead_letters: int = 0
    dead_letters_distinct: int = 0
    unreadable_events: int = 0
    objects: int = 0
    audit_rows: int = 0
    audit_head: str | None = None
    seconds: float = 0.0
    notes: list[str] = msgspec.field(default_factory=list)

    def add_note(self, sentence: str) -> None:
        """Record what limited the checks."""
        self.notes = [*self.notes, sentence]

    @property
    def lost(self) -> int:
        """The number of accepted requests that nothing will end."""
        return sum(self.findings[code].count for code in LOST_CODES & self.findings.keys())
