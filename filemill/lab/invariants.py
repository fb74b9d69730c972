"""The invariants, each with its evidence: what a run has to show before its figures may be believed."""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from filemill.domain.worker_events import EventKind
from filemill.runtime.journal import JournalEntry
from filemill.verification import commits as commit_audit
from filemill.verification import report as verify_report
from filemill.verification.commits import CommitAudit
from filemill.verification.report import Finding, Report
from filemill.verification.topic_history import NEVER, TopicHistory

TITLES = {
    "1": "Every accepted request ends, each in one row",
    "2": "Completed means: the object exists and is what was asked for",
    "3": "No object without a request",
    "4": "No commit passes an unfinished record",
    "5": "Within a run a status never moves back",
    "6": "Nobody commits for a partition that is another's",
    "7": "Nothing is executed again that a commit covered",
    "8": "Publish numbers are durable and cycle through the partitions",
    "9": "While there is lag, something finishes",
}


class InvariantViolation(AssertionError):
    """A verdict that is not well."""


class InvariantCheck(msgspec.Struct, frozen=True):
    """One invariant. `ok` None: it could not be observed here, and `evidence` says why."""

    number: str
    title: str
    ok: bool | None
    evidence: str
    examples: list[str] = []


class InvariantReport(msgspec.Struct, frozen=True):
    """All checks of one run."""

    checks: list[InvariantCheck]
    report: Report
    audit: CommitAudit | None
    at: datetime

    @property
    def ok(self) -> bool:
        """Whether no promise was seen broken."""
        return all(check.ok is not False for check in self.checks)

    def require(self) -> "InvariantReport":
        """Itself, where it is well. Raises InvariantViolation."""
        if not self.ok:
            raise InvariantViolation(str(self))
        return self

    def rows(self) -> list[dict[str, object]]:
        """For a table."""
        words = {True: "kept", False: "BROKEN", None: "not observed"}
        return [
            {"invariant": check.number, "promise": check.title, "verdict": words[check.ok], "evidence": check.evidence}
            for check in self.checks
        ]

    def __str__(self) -> str:
        lines = [f"{row['invariant']}  {row['verdict']:12}  {row['promise']}: {row['evidence']}" for row in self.rows()]
        lines += [f"   e.g. {example}" for check in self.checks if check.ok is False for example in check.examples[:3]]
        return "\n".join(lines)


class Observations(msgspec.Struct, kw_only=True):
    """What a verdict is made of. `patience_seconds`: how long nothing may finish while there is lag."""

    report: Report
    audit: CommitAudit | None
    history: TopicHistory
    backward_moves: list[str] | None
    faults: Sequence[JournalEntry]
    patience_seconds: float
    until: float
    # What was not as it should be about losses that faults had planted, and how many of them were named.
    losses: Sequence[str] = ()
    planted: int = 0


def check_invariants(seen: Observations) -> InvariantReport:
    """Give the verdict. Pure, but for the moment that is on it."""
    findings = _by_invariant(seen)
    report, audited = seen.report, seen.audit
    commits = f"{audited.commits} commits" if audited else "a share group: offsets are the broker's"
    if audited and audited.resets:
        commits += f", {audited.resets} of them resets on record"
    planted = f"; {seen.planted} planted losses were named and submitted again" if seen.planted else ""
    counts = {
        "1": f"{report.submitted} accepted, {report.completed} completed, {report.failed} failed, "
        f"{report.cancelled} cancelled, {report.in_flight} not ended{planted}",
        "2": f"{report.completed} objects rendered afresh and compared",
        "3": f"{report.objects} objects, {report.superseded} superseded",
        "4": commits,
        "5": "every change of a row" if seen.backward_moves is not None else "the rows as they are now",
        "6": commits,
        "7": f"{audited.executed_again} of {audited.executions} executions were repetitions" if audited else commits,
        "8": f"{len(seen.history.requests)} records, {report.repeats} repeated",
        "9": f"at most {_longest_stall(seen)[0]:.1f} s without a result on a partition with lag, outside of faults",
    }
    checks = []
    for number, title in TITLES.items():
        hits = findings.get(number, [])
        unseen = audited is None and number in ("4", "6", "7") and not hits
        ok = None if unseen else not hits
        told = "; ".join(f"{hit.count} × {hit.meaning.partition(': ')[2]}" for hit in hits)
        evidence = f"{told} ({counts[number]})" if told else counts[number]
        checks.append(
            InvariantCheck(number, title, ok, evidence, [example for hit in hits for example in hit.examples])
        )
    return InvariantReport(checks, report, audited, datetime.fromtimestamp(time.time(), UTC))


def _by_invariant(seen: Observations) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    meanings = {**verify_report.CHECKS, **commit_audit.CHECKS}
    for finding in [*seen.report.findings.values(), *(seen.audit.findings.values() if seen.audit else ())]:
        found.setdefault(meanings[finding.check].partition(":")[0], []).append(finding)
    for number, check in (
        ("1", _not_ended(seen)),
        ("1", _mistaken(seen)),
        ("5", _moved_back(seen)),
        ("9", _stalled(seen)),
    ):
        if check is not None:
            found.setdefault(number, []).append(check)
    return found


def _not_ended(seen: Observations) -> Finding | None:
    if not seen.report.in_flight:
        return None
    return Finding("not-ended", "1: accepted and not ended when the run was over", seen.report.in_flight)


def _mistaken(seen: Observations) -> Finding | None:
    if not seen.losses:
        return None
    return Finding("losses", "1: planted losses that are not what is named", len(seen.losses), list(seen.losses))


def _moved_back(seen: Observations) -> Finding | None:
    moves = seen.backward_moves or []
    return Finding("moved-back", "5: a status moved back", len(moves), moves[:20]) if moves else None


def _stalled(seen: Observations) -> Finding | None:
    seconds, partition, at = _longest_stall(seen)
    if seconds <= seen.patience_seconds:
        return None
    example = f"partition {partition}: nothing for {seconds:.1f} s until {datetime.fromtimestamp(at, UTC):%H:%M:%S}"
    return Finding("stalled", f"9: lag, and no result within {seen.patience_seconds:g} s", 1, [example])


def _longest_stall(seen: Observations) -> tuple[float, int, float]:
    """The longest time, free of faults and of open breakers, in which a partition with lag had no result."""
    finished = seen.history.finished()
    excused = sorted([*_fault_windows(seen.faults), *_breaker_windows(seen.history, seen.until)])
    worst = (0.0, 0, 0.0)
    for partition in sorted({request.partition for request in seen.history.requests}):
        spans = [
            (request.at, finished.get(seen.history.position_of(request), NEVER))
            for request in seen.history.requests
            if request.partition == partition
        ]
        for begin, end in _gaps(spans, seen.until):
            for free in _longest_free(begin, end, excused):
                worst = max(worst, (free, partition, end))
    return worst


def _gaps(spans: list[tuple[float, float]], until: float) -> Iterable[tuple[float, float]]:
    """The times without a result while a record waited for one. `spans`: from arrival to result, by arrival."""
    results = sorted(end for _, end in spans if end <= until)
    begin = spans[0][0] if spans else until
    arrivals = sorted(arrival for arrival, _ in spans)
    arrived = 0
    for done, end in enumerate([*results, until]):
        while arrived < len(arrivals) and arrivals[arrived] <= begin:
            arrived += 1
        if arrived > done:  # something waited from the last result on
            yield begin, end
        elif arrived < len(arrivals) and arrivals[arrived] < end:
            yield arrivals[arrived], end
        begin = end


def _longest_free(begin: float, end: float, excused: list[tuple[float, float]]) -> Iterable[float]:
    """The pieces of a time that no window covers."""
    for window_begin, window_end in excused:
        if window_end <= begin or window_begin >= end:
            continue
        if window_begin > begin:
            yield window_begin - begin
        begin = max(begin, window_end)
    if end > begin:
        yield end - begin


def _fault_windows(faults: Iterable[JournalEntry]) -> list[tuple[float, float]]:
    return [(entry.began, entry.ended or NEVER) for entry in faults]


def _breaker_windows(history: TopicHistory, until: float) -> list[tuple[float, float]]:
    opened: dict[str, float] = {}
    windows = []
    for heard in history.events:
        kind, worker = heard.event.kind, heard.event.worker_id
        if kind is EventKind.BREAKER_OPENED:
            opened.setdefault(worker, heard.at)
        elif kind in (EventKind.BREAKER_CLOSED, EventKind.STARTED, EventKind.STOPPED) and worker in opened:
            windows.append((opened.pop(worker), heard.at))
    # A killed worker never says that its breaker has closed; its successor's heartbeats tell nothing of it either.
    alive = {heard.event.worker_id for heard in history.events if heard.at > until - 6.0}
    windows += [(at, until) for worker, at in opened.items() if worker in alive]
    return windows
