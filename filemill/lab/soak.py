"""The soak test: all faults by a seeded schedule under load, then a check of all invariants.

It fails if an invariant was violated. It also fails if it proved too little: a scheduled fault is missing or hit an
idle pipeline, or the request rate or the number of records in flight was too low.
"""

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from filemill.config.settings import load
from filemill.domain.files import Status
from filemill.domain.origins import split_list
from filemill.entrypoints.processor import handler_sources
from filemill.errors import Unavailable
from filemill.handlers.registry import BUILT_IN, load_handlers
from filemill.lab import chaos, figures, frames, measures
from filemill.lab.clock import REMEDY
from filemill.lab.invariants import InvariantReport
from filemill.lab.load import JobMix, LoadStep
from filemill.lab.parameters import StackParameters
from filemill.lab.results import RESULTS, Results
from filemill.lab.stack import Lab
from filemill.lab.status_regressions import status_regressions
from filemill.queries.files import count_statuses_of
from filemill.queries.verification import worker_vitals
from filemill.services.job_requests import check_parameters, encode_parameters, parse_parameters
from filemill.verification.findings import FindingCode
from filemill.verification.topic_history import TopicHistory

LEAST_RATE = 300.0
LEAST_IN_FLIGHT = 50
# Above LEAST_RATE, because requests that an outage delays at the end of the load are not submitted.
RATE = 330.0
WARM_SECONDS = 4.0
AT_WORK_SECONDS = 30.0
DRAIN_SECONDS = 300.0
POLL_SECONDS = 0.2
_DOUBLES = {FindingCode.ORPHAN_OBJECT, FindingCode.SEQUENCE_TWICE}
_PARAMETERS = {"pdf": {"markdown": "# A document\n\nMade while faults are injected."}}
# The jobs are submitted within this part of the load's duration.
JOBS_PART = 0.8
FRESH_SECONDS = 5.0


class SoakParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a soak test. `jobs`: how many requests of `handler` there are among the load.

    `parameters` of the handler are a JSON object as text. `handlers` are modules, as in FILEMILL_HANDLERS.
    """

    minutes: float = 10.0
    seed: int = 7
    protocol: str = "consumer"
    without: list[str] = []
    rate: float = RATE
    workers: int = 3
    processing_seconds: float = 1.0
    jobs: int = 0
    handler: str = "pdf"
    parameters: str = "{}"
    handlers: str = ""

    @property
    def mix(self) -> JobMix | None:
        """The requests of the handler among the load; None without any."""
        if not self.jobs:
            return None
        expected = self.minutes * 60 * self.rate * JOBS_PART
        return JobMix(self.handler, self.jobs, max(1, int(expected / self.jobs)), self.parameters)


class SoakResult(msgspec.Struct, kw_only=True):
    """The result of a soak test. Rates are per second, times in seconds.

    `lost`: accepted requests that did not end. `doubled`: requests with more than one end, object or publication.
    `jobs`: requests of the handler by their status.
    """

    invariants: InvariantReport
    lost: int
    doubled: int
    jobs: dict[str, int]
    accepted: int
    accepted_per_second: float
    drain_seconds: float
    in_flight: dict[str, list[int]]
    in_flight_median: float
    recovery_median: float | None
    recovery_alone_median: float | None
    recovery_max: float | None
    detection_median: float | None
    executed_again: int
    rework_seconds: float
    problems: list[str]
    folder: str

    @property
    def ok(self) -> bool:
        """Whether no invariant was violated and enough was proved."""
        return self.invariants.ok and not self.problems


def job_options(jobs: int, handler: str, parameters: Path | None = None, handlers: str | None = None) -> dict[str, Any]:
    """The fields of SoakParameters for requests of a handler that is installed here or built in.

    `parameters` is a JSON file; None: a short text for `pdf`, no parameters for other handlers. `handlers` are modules;
    None: those of the settings. Raises ValueError, which InvalidRequest is, and InvalidHandler.
    """
    settings = load(**({} if handlers is None else {"handlers": handlers}))
    modules = split_list(settings.handlers)
    registry = load_handlers(handler_sources(settings))
    if handler in BUILT_IN and registry.get(handler) is None:
        modules = [*modules, handler]
        registry = load_handlers(msgspec.structs.replace(handler_sources(settings), modules=tuple(modules)))
    known = registry.get(handler)
    if known is None:
        names = ", ".join(sorted({*registry.names, *BUILT_IN}))
        raise ValueError(
            f"there is no handler {handler!r} here; there are: {names}. Install it or name its module in"
            " FILEMILL_HANDLERS"
        )
    try:
        text = parameters.read_text(encoding="utf-8") if parameters else json.dumps(_PARAMETERS.get(handler, {}))
        given = parse_parameters(text)
        check_parameters(known.spec(), given)
    except OSError as error:
        raise ValueError(f"the parameters of the handler {handler}: {error}") from None
    return {
        "jobs": jobs,
        "handler": handler,
        "parameters": encode_parameters(given),
        "handlers": ",".join(modules),
    }


def soak(parameters: SoakParameters, root: Path = RESULTS, say: Callable[[str], None] = print) -> SoakResult:
    """Run a soak test. Raises RuntimeError if the machine lacks what a fault needs."""
    without = set(parameters.without)
    if chaos.CLOCK in without and chaos.SKEW in chaos.unavailable_faults() - without:
        say(f"{chaos.SKEW} is skipped: {REMEDY}")
        without.add(chaos.SKEW)
    lacking = chaos.unavailable_faults() - without
    if lacking:
        raise RuntimeError(f"{', '.join(lacking)}: {REMEDY}; or skip it with --without")
    durations = chaos.ChaosDurations(parameters.minutes)
    planned = chaos.schedule(parameters.seed, parameters.minutes, frozenset(without))
    stack = StackParameters(
        workers=parameters.workers,
        protocol=parameters.protocol,
        processing_seconds=parameters.processing_seconds,
        relays=2,
        syncs=2,
        settings={"handlers": parameters.handlers} if parameters.handlers else {},
    )
    results = Results.create(f"soak-{parameters.protocol}-{parameters.seed}", parameters, root)
    say(f"Results in {results.folder}")
    with Lab(stack, journal=results.journal()) as lab:
        results.save_servers(lab.servers())
        began = time.time()
        lab.load.mix = parameters.mix
        # Longer than the schedule can take: the load is stopped after it.
        lab.load.start(lambda load: load.open_loop([LoadStep(parameters.minutes * 60 * 4 + 600, parameters.rate)]))
        time.sleep(WARM_SECONDS)
        chaos.run_schedule(lab, planned, durations, lambda: _wait_at_work(lab), say)
        time.sleep(max(0.0, began + parameters.minutes * 60 - time.time()))
        lab.load.stop()
        load_seconds = time.time() - began
        say(f"{load_seconds:6.1f} s  load ends with {len(lab.load.submitted)} accepted; draining")
        drained: float | None = None
        try:
            drained = lab.drain_planted_losses(DRAIN_SECONDS)
        except TimeoutError as error:
            # While a processor works, commits are read whose results came after the results were read.
            say(f"Not drained: {error}. The processors are stopped for the check")
            lab.scale(0)
        say("Reading topics and rows")
        history = lab.history()
        try:
            _save(lab, results, history)
        except Unavailable as error:  # the invariants matter more than the figures
            say(f"Some frames were not saved: {error}")
        invariants = lab.check_invariants(history)
        result = _conclude(lab, results, planned, history, invariants, load_seconds, drained)
        say(f"lost {result.lost}, doubled {result.doubled}; jobs by status: {result.jobs or 'none'}")
        return result


def _wait_at_work(lab: Lab) -> None:
    """Wait until the processors hold records: a fault on an idle pipeline proves nothing."""
    since = max((entry.ended or 0.0 for entry in lab.journal.faults()), default=0.0)
    deadline = time.monotonic() + AT_WORK_SECONDS
    while time.monotonic() < deadline:
        lab.load.check()
        with contextlib.suppress(Unavailable):
            if _records_in_progress(lab, since) >= LEAST_IN_FLIGHT:
                return
        time.sleep(POLL_SECONDS)


def _records_in_progress(lab: Lab, since: float) -> int:
    """The number of records that the processors hold, by their heartbeats since a moment."""
    fresh = datetime.fromtimestamp(max(since, time.time() - FRESH_SECONDS), UTC)
    with lab.engine.connect() as connection:
        return sum(vitals.get("inFlight", 0) for vitals in worker_vitals(connection, lab.workers(), fresh))


def _conclude(
    lab: Lab,
    results: Results,
    planned: list[chaos.ScheduledFault],
    history: TopicHistory,
    invariants: InvariantReport,
    load_seconds: float,
    drained: float | None,
) -> SoakResult:
    entries = lab.journal.faults()
    in_flight: dict[str, list[int]] = {}
    for entry in entries:
        in_flight.setdefault(entry.name, []).append(measures.in_flight_at(history, entry.began))
    counts = [count for found in in_flight.values() for count in found]
    recovered = measures.recovery(history, entries)
    again = measures.repetitions(history)
    result = SoakResult(
        invariants=invariants,
        lost=invariants.report.lost + invariants.report.in_flight,
        doubled=_doubled(lab, invariants),
        jobs=_jobs(lab),
        accepted=len(lab.load.submitted),
        accepted_per_second=round(len(lab.load.submitted) / load_seconds, 1),
        drain_seconds=round(drained, 1) if drained is not None else float("inf"),
        in_flight=in_flight,
        in_flight_median=statistics.median(counts) if counts else 0,
        recovery_median=_round(recovered["recovery_seconds"].median()),
        recovery_alone_median=_round(recovered[recovered["alone"]]["recovery_seconds"].median()),
        recovery_max=_round(recovered["recovery_seconds"].max()),
        detection_median=_round(recovered["detection_seconds"].median()),
        executed_again=int(again["executed_again"]),
        rework_seconds=again["rework_seconds"],
        problems=[],
        folder=str(results.folder),
    )
    result.problems = list(_problems(result, planned, drained))
    if (mix := lab.load.mix) is not None and result.jobs != {Status.COMPLETED: mix.count}:
        result.problems.append(f"of {mix.count} jobs, by status: {result.jobs}")
    results.save_frame("recovery", recovered)
    results.save_invariants(invariants)
    (results.folder / "soak.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    results.save_summary(_numbers(result))
    return result


def _doubled(lab: Lab, invariants: InvariantReport) -> int:
    """How many requests had more than one effect: ended twice, have an object too many, or were published twice."""
    found = invariants.report.findings
    ended_again = len(status_regressions(lab.engine) or ())
    return ended_again + sum(found[code].count for code in _DOUBLES & found.keys())


def _jobs(lab: Lab) -> dict[str, int]:
    """The number of the jobs by status."""
    with lab.engine.connect() as connection:
        return {str(status): count for status, count in count_statuses_of(connection, lab.load.jobs).items()}


def _problems(result: SoakResult, planned: list[chaos.ScheduledFault], drained: float | None) -> list[str]:
    absent = sorted({one.name for one in planned} - result.in_flight.keys())
    found = [f"{name} was scheduled but not injected" for name in absent]
    found += [f"{name} hit an idle pipeline" for name, counts in result.in_flight.items() if not all(counts)]
    if result.in_flight_median < LEAST_IN_FLIGHT:
        found.append(f"the median of records in flight at a fault was {result.in_flight_median:g}")
    if result.accepted_per_second < LEAST_RATE:
        found.append(f"{result.accepted_per_second:g} requests per second were accepted")
    if drained is None:
        found.append(f"the backlog did not drain within {DRAIN_SECONDS:g} s")
    return found


def _save(lab: Lab, results: Results, history: TopicHistory) -> None:
    """Save frames and figures before the check of the invariants, which takes minutes and needs the servers."""
    faults = frames.faults(lab.journal.faults())
    executions = frames.executions(history)
    files = frames.files(lab.engine, lab.load.submitted)
    assignments = frames.assignments(history, time.time(), measures.kills(lab.journal.faults()))
    latencies = measures.latencies(files)
    for name, frame in {
        "faults": faults,
        "executions": executions,
        "files": files,
        "assignments": assignments,
        "events": frames.events(history),
        "latencies": latencies,
    }.items():
        results.save_frame(name, frame)
    results.save_figure("timeline", figures.timeline(assignments, faults))
    results.save_figure("throughput", figures.throughput(measures.throughput(executions), faults))
    results.save_figure("unfinished", figures.unfinished(measures.unfinished(files), faults))


def _numbers(result: SoakResult) -> dict[str, float]:
    known = {
        "accepted": result.accepted,
        "accepted_per_second": result.accepted_per_second,
        "drain_seconds": result.drain_seconds,
        "in_flight_median": result.in_flight_median,
        "recovery_median": result.recovery_median,
        "recovery_alone_median": result.recovery_alone_median,
        "recovery_max": result.recovery_max,
        "executed_again": result.executed_again,
        "rework_seconds": result.rework_seconds,
    }
    return {name: float("nan") if value is None else float(value) for name, value in known.items()}


def _round(value: float) -> float | None:
    return round(float(value), 2) if not math.isnan(value) else None
