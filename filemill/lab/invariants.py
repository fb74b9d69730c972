"""Checks the invariants of a run. Figures are valid only if the run violated none of them."""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from filemill.domain.worker_events import EventKind
from filemill.runtime.journal import JournalEntry
from filemill.verification.commits import CommitAudit
from filemill.verification.findings import Finding, FindingCode, Invariant, new_finding
from filemill.verification.report import VerificationReport
from filemill.verification.topic_history import NEVER, TopicHistory

# The words of a table, by the result of a check.
RESULT_WORDS = {True: "kept", False: "BROKEN", None: "not observed"}
# A worker that sent an event within this time before the end of the run is alive.
ALIVE_SECONDS = 6.0
# The audit of commits checks these. A share group makes no commits, so they cannot be observed there.
_AUDITED = {
    Invariant.COMMITS_COVER_FINISHED,
    Invariant.ONLY_OWNERS_COMMIT,
    Invariant.NO_COVERED_REPROCESSING,
}


class InvariantViolation(AssertionError):
    """A run violated an invariant."""


class InvariantCheck(msgspec.Struct, frozen=True):
    """The check of one invariant. `ok` is None if the run could not observe it; `evidence` says why."""

    number: str
    title: str
    ok: bool | None
    evidence: str
    examples: list[str] = []
    # The invariant's code, and the codes of its findings. Empty in files of earlier versions.
    invariant: str = ""
    codes: list[str] = []


class InvariantReport(msgspec.Struct, frozen=True):
    """The checks of one run."""

    checks: list[InvariantCheck]
    report: VerificationReport
    audit: CommitAudit | None
    at: datetime

    @property
    def ok(self) -> bool:
        """Whether no invariant was violated."""
        return all(check.ok is not False for check in self.checks)

    def require(self) -> "InvariantReport":
        """Return itself if no invariant was violated. Raises InvariantViolation."""
        if not self.ok:
            raise InvariantViolation(str(self))
        return self

    def rows(self) -> list[dict[str, object]]:
        """The checks as the rows of a table."""
        return [
            {
                "number": check.number,
                "invariant": check.title,
                "result": RESULT_WORDS[check.ok],
                "evidence": check.evidence,
            }
            for check in self.checks
        ]

    def __str__(self) -> str:
        lines = [f"{row['number']}  {row['result']:12}  {row['invariant']}: {row['evidence']}" for row in self.rows()]
        lines += [f"   e.g. {example}" for check in self.checks if check.ok is False for example in check.examples[:3]]
        return "\n".join(lines)


class Observations(msgspec.Struct, kw_only=True):
    """What a run observed. `stall_seconds`: the longest time without a result that is allowed while there is lag."""

    report: VerificationReport
    audit: CommitAudit | None
    history: TopicHistory
    # Statuses that moved backwards, in words; None if the database has no trigger for it.
    status_regressions: list[str] | None
    faults: Sequence[JournalEntry]
    stall_seconds: float
    until: float
    # Differences between the losses that faults planted and those that were reported; the number of reported ones.
    loss_problems: Sequence[str] = ()
    reported_losses: int = 0


def check_invariants(seen: Observations) -> InvariantReport:
    """Check every invariant. Pure, except for the time of the report."""
    findings = _findings_by_invariant(seen)
    evidence = _evidence(seen)
    checks = []
    for invariant in Invariant:
        found = findings.get(invariant, [])
        unobserved = seen.audit is None and invariant in _AUDITED and not found
        told = "; ".join(f"{finding.count} × {finding.meaning}" for finding in found)
        checks.append(
            InvariantCheck(
                number=invariant.number,
                title=invariant.statement,
                ok=None if unobserved else not found,
                evidence=f"{told} ({evidence[invariant]})" if told else evidence[invariant],
                examples=[example for finding in found for example in finding.examples],
                invariant=invariant,
                codes=[finding.check for finding in found],
            )
        )
    return InvariantReport(checks, seen.report, seen.audit, datetime.fromtimestamp(time.time(), UTC))


def _evidence(seen: Observations) -> dict[Invariant, str]:
    """How much was checked, in words."""
    report, audited = seen.report, seen.audit
    commits = f"{audited.commits} commits" if audited else "a share group makes no commits"
    if audited and audited.resets:
        commits += f", {audited.resets} of them recorded resets"
    planted = f"; {seen.reported_losses} planted losses were reported and resubmitted" if seen.reported_losses else ""
    return {
        Invariant.REQUESTS_END: f"{report.submitted} accepted, {report.completed} completed, {report.failed} failed, "
        f"{report.cancelled} cancelled, {report.in_flight} not ended{planted}",
        Invariant.OBJECTS_MATCH: f"{report.completed} objects compared with a new render",
        Invariant.NO_ORPHAN_OBJECTS: f"{report.objects} objects, {report.superseded} superseded",
        Invariant.COMMITS_COVER_FINISHED: commits,
        Invariant.STATUS_NEVER_REGRESSES: "the current rows" if seen.status_regressions is None else "each row change",
        Invariant.ONLY_OWNERS_COMMIT: commits,
        Invariant.NO_COVERED_REPROCESSING: f"{audited.executed_again} of {audited.executions} executions were repeated"
        if audited
        else commits,
        Invariant.SEQUENCES_CYCLE: f"{len(seen.history.requests)} records, {report.repeats} repeated",
        Invariant.PARTITIONS_PROGRESS: f"at most {_longest_stall(seen)[0]:.1f} s without a result on a partition with "
        "lag, outside of faults",
        Invariant.AUDIT_UNCHANGED: f"{report.audit_rows} rows of the audit log",
    }


def _findings_by_invariant(seen: Observations) -> dict[Invariant, list[Finding]]:
    audited = seen.audit.findings.values() if seen.audit else ()
    found: dict[Invariant, list[Finding]] = {}
    for finding in [*seen.report.findings.values(), *audited, *_run_findings(seen)]:
        found.setdefault(finding.invariant, []).append(finding)
    return found


def _run_findings(seen: Observations) -> Iterable[Finding]:
    """Findings that need to know the load and the faults of the run."""
    if seen.report.in_flight:
        finding = new_finding(FindingCode.NOT_ENDED)
        finding.count = seen.report.in_flight
        yield finding
    if seen.loss_problems:
        yield new_finding(FindingCode.LOSSES_MISREPORTED, seen.loss_problems)
    if seen.status_regressions:
        yield new_finding(FindingCode.STATUS_REGRESSED, seen.status_regressions)
    seconds, partition, at = _longest_stall(seen)
    if seconds > seen.stall_seconds:
        example = f"partition {partition}: nothing for {seconds:.1f} s until {datetime.fromtimestamp(at, UTC):%H:%M:%S}"
        yield new_finding(FindingCode.NO_PROGRESS, [example])


def _longest_stall(seen: Observations) -> tuple[float, int, float]:
    """The longest time without a result on a partition with lag: seconds, partition, and its end.

    Time during faults and open circuit breakers does not count.
    """
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
            for seconds in _uncovered(begin, end, excused):
                worst = max(worst, (seconds, partition, end))
    return worst


def _gaps(spans: list[tuple[float, float]], until: float) -> Iterable[tuple[float, float]]:
    """The times without a result while a record waited. `spans`: arrival and result of each record, by arrival."""
    results = sorted(end for _, end in spans if end <= until)
    begin = spans[0][0] if spans else until
    arrivals = sorted(arrival for arrival, _ in spans)
    arrived = 0
    for done, end in enumerate([*results, until]):
        while arrived < len(arrivals) and arrivals[arrived] <= begin:
            arrived += 1
        if arrived > done:  # a record has waited since the last result
            yield begin, end
        elif arrived < len(arrivals) and arrivals[arrived] < end:
            yield arrivals[arrived], end
        begin = end


def _uncovered(begin: float, end: float, windows: list[tuple[float, float]]) -> Iterable[float]:
    """The lengths of the parts of a time that no window covers."""
    for window_begin, window_end in windows:
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
    windows: list[tuple[float, float]] = []
    for stored in history.events:
        kind, worker = stored.event.kind, stored.event.worker_id
        if kind is EventKind.BREAKER_OPENED:
            opened.setdefault(worker, stored.at)
        elif kind in (EventKind.BREAKER_CLOSED, EventKind.STARTED, EventKind.STOPPED) and worker in opened:
            windows.append((opened.pop(worker), stored.at))
    # A killed worker never reports that its breaker has closed.
    alive = {stored.event.worker_id for stored in history.events if stored.at > until - ALIVE_SECONDS}
    windows += [(at, until) for worker, at in opened.items() if worker in alive]
    return windows
