"""The hash chain of the audit log: each row has the hash of the one before, so a later change is found.

Who owns the database can compute the whole chain again. A head that is kept elsewhere finds that, too.
"""

import enum
import hashlib
import re
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from filemill.domain.files import EPOCH
from filemill.errors import InvalidRequest

FIRST_PREVIOUS = bytes(32)
EXAMPLES_MAX = 20
_MICROSECOND = timedelta(microseconds=1)
_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


class AuditRow(msgspec.Struct, frozen=True):
    """A row of the log. `detail` is the text of its JSON as PostgreSQL prints it; `follows`: the row it completes."""

    sequence: int
    id: int
    at: datetime
    actor: str
    action: str
    detail: str
    authentication: str | None
    address: str | None
    request_id: str | None
    follows: int | None
    previous_hash: bytes
    hash: bytes


class AuditHead(msgspec.Struct, frozen=True):
    """The end of the chain: the number of rows and the hash of the last one. Keep it outside of the database."""

    count: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.count}:{self.hash.hex()}"


EMPTY = AuditHead(0, FIRST_PREVIOUS)


def parse_head(text: str) -> AuditHead:
    """A head as it is printed. Raises InvalidRequest."""
    match = _HEAD.fullmatch(text.strip().lower())
    if match is None:
        raise InvalidRequest("head", "must be a number of rows, a colon and 64 hexadecimal digits")
    return AuditHead(int(match[1]), bytes.fromhex(match[2]))


def row_hash(row: AuditRow) -> bytes:
    """The SHA-256 that the row must have. The trigger `chain_operation` computes the same.

    Each field is its length in bytes, a colon, the value in UTF-8 and a comma; a missing one is a hyphen. The time is
    in microseconds since 1970.
    """
    fields = (
        str(row.sequence),
        str(row.id),
        str((row.at - EPOCH) // _MICROSECOND),
        row.actor,
        row.action,
        row.detail,
        row.authentication,
        row.address,
        row.request_id,
        None if row.follows is None else str(row.follows),
    )
    return hashlib.sha256(row.previous_hash + b"".join(_encoded(field) for field in fields)).digest()


def _encoded(field: str | None) -> bytes:
    if field is None:
        return b"-"
    value = field.encode()
    return b"%d:%s," % (len(value), value)


class AuditFindingCode(enum.StrEnum):
    """How the log differs from what was written."""

    EDITED = "audit-row-edited"
    MISSING = "audit-row-missing"
    OUT_OF_ORDER = "audit-row-out-of-order"
    END_MISSING = "audit-end-missing"
    BEYOND_HEAD = "audit-row-beyond-head"
    HEAD_DIFFERS = "audit-head-differs"
    KNOWN_HEAD_DIFFERS = "audit-known-head-differs"

    @property
    def meaning(self) -> str:
        """What it is, in one sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    AuditFindingCode.EDITED: "rows of the audit log whose content does not have their hash",
    AuditFindingCode.MISSING: "missing rows of the audit log",
    AuditFindingCode.OUT_OF_ORDER: "rows of the audit log that do not follow the row before them",
    AuditFindingCode.END_MISSING: "missing rows at the end of the audit log",
    AuditFindingCode.BEYOND_HEAD: "rows of the audit log behind its recorded end",
    AuditFindingCode.HEAD_DIFFERS: "the recorded end of the audit log differs from its last row",
    AuditFindingCode.KNOWN_HEAD_DIFFERS: "the audit log does not contain the head that was kept elsewhere",
}


class AuditFinding(msgspec.Struct):
    """A difference, the number of cases, and the sequence numbers of the first ones."""

    check: AuditFindingCode
    meaning: str
    count: int = 0
    examples: list[str] = []


class ChainCheck:
    """Checks rows in the order of their sequence numbers. `known`: a head that was kept elsewhere."""

    def __init__(self, known: AuditHead | None = None) -> None:
        self.findings: dict[AuditFindingCode, AuditFinding] = {}
        self.rows = 0
        self._known = known if known is not None and known != EMPTY else None
        self._known_found = self._known is None
        self._last = EMPTY

    def add(self, rows: Iterable[AuditRow]) -> None:
        """Check the next rows."""
        for row in rows:
            self.rows += 1
            intact = row_hash(row) == row.hash
            if not intact:
                self._find(AuditFindingCode.EDITED, row.sequence)
            gap = row.sequence - self._last.count - 1
            if gap > 0:
                self._find(AuditFindingCode.MISSING, _range(self._last.count + 1, row.sequence - 1), gap)
            elif gap < 0 or row.previous_hash != self._last.hash:
                self._find(AuditFindingCode.OUT_OF_ORDER, row.sequence)
            self._last = AuditHead(row.sequence, row.hash)
            if self._last == self._known and intact:
                self._known_found = True

    def finish(self, head: AuditHead | None) -> None:
        """Compare the last row with the recorded head; None: its row is missing."""
        last = self._last
        if head is None:
            self._find(AuditFindingCode.HEAD_DIFFERS, "its row is missing")
        elif head.count > last.count:
            self._find(AuditFindingCode.END_MISSING, _range(last.count + 1, head.count), head.count - last.count)
        elif head.count < last.count:
            self._find(AuditFindingCode.BEYOND_HEAD, _range(head.count + 1, last.count), last.count - head.count)
        elif head.hash != last.hash:
            self._find(AuditFindingCode.HEAD_DIFFERS, head)
        if not self._known_found:
            self._find(AuditFindingCode.KNOWN_HEAD_DIFFERS, self._known)

    def _find(self, code: AuditFindingCode, example: object, count: int = 1) -> None:
        found = self.findings.setdefault(code, AuditFinding(code, code.meaning))
        found.count += count
        if len(found.examples) < EXAMPLES_MAX:
            found.examples = [*found.examples, str(example)]


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"
