"""One experiment: start a stack, do something to it, let it come to rest, and keep all that can be known of it.

What notebooks call. A script is a function that takes the lab and loads it, breaks it, or both.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import plotly.graph_objects as go
import psutil

from filemill.lab import figures, frames, measures
from filemill.lab.invariants import InvariantReport, InvariantViolation
from filemill.lab.load import LoadStep
from filemill.lab.parameters import StackParameters
from filemill.lab.results import Results
from filemill.lab.stack import Lab
from filemill.runtime.journal import Journal, JournalEntry
from filemill.verification.topic_history import TopicHistory

DRAIN_SECONDS = 120.0

Script = Callable[[Lab], None]


@dataclass(frozen=True)
class ExperimentResult:
    """What one run left. Moments are seconds since the epoch; those in `history` by the broker's clock."""

    parameters: StackParameters
    history: TopicHistory
    invariants: InvariantReport
    files: pd.DataFrame
    faults: list[JournalEntry]
    began: float
    ended: float
    # Processes that wanted the machine before the stack was started: the mean of a minute.
    load_average: float
    # The servers' versions, by their names; empty where others than the lab started them.
    servers: dict[str, str]

    @cached_property
    def executions(self) -> pd.DataFrame:
        """A row a result."""
        return frames.executions(self.history)

    @cached_property
    def events(self) -> pd.DataFrame:
        """A row an event of a worker."""
        return frames.events(self.history)

    @cached_property
    def assignments(self) -> pd.DataFrame:
        """A row a band of the timeline."""
        return frames.assignments(self.history, self.ended, measures.kills(self.faults))

    @cached_property
    def fault_frame(self) -> pd.DataFrame:
        """A row a fault."""
        return frames.faults(self.faults)

    @cached_property
    def latencies(self) -> pd.DataFrame:
        """Percentiles per stage, in seconds."""
        return measures.latencies(self.files)

    @cached_property
    def summary(self) -> dict[str, float]:
        """The numbers that runs are compared by. Rates per second over the time from first to last result."""
        first = self.executions[~self.executions["again"]]
        seconds = (first["at"].max() - first["at"].min()).total_seconds() if len(first) > 1 else float("nan")
        (whole,) = self.latencies[self.latencies["stage"] == "end to end"].to_dict("records")
        recovered = measures.recovery(self.history, self.faults)
        return {
            "files": len(self.files),
            "files_per_second": len(first) / seconds if seconds else float("nan"),
            "end_to_end_p50": float(whole["p50"]),
            "end_to_end_p99": float(whole["p99"]),
            "recovery_median": float(recovered["recovery_seconds"].median()),
            **measures.repetitions(self.history),
            **measures.fairness(self.executions),
            **measures.cost(self.events, len(self.files), self.history.payload_bytes),
        }

    def timeline(self) -> go.Figure:
        """Who owned which partition, with the faults."""
        return figures.timeline(self.assignments, self.fault_frame)

    def throughput(self) -> go.Figure:
        """Results per second by worker, with the faults."""
        return figures.throughput(measures.throughput(self.executions), self.fault_frame)

    def unfinished(self) -> go.Figure:
        """What was asked for and not yet seen as ended, with the faults."""
        return figures.unfinished(measures.unfinished(self.files), self.fault_frame)

    def save(self, results: Results) -> None:
        """Write all of it into a folder."""
        for name, frame in {
            "files": self.files,
            "executions": self.executions,
            "events": self.events,
            "assignments": self.assignments,
            "faults": self.fault_frame,
            "latencies": self.latencies,
        }.items():
            results.save_frame(name, frame)
        for name, figure in {
            "timeline": self.timeline(),
            "throughput": self.throughput(),
            "unseen": self.unfinished(),
        }.items():
            results.save_figure(name, figure)
        results.save_invariants(self.invariants)
        results.save_summary(self.summary)


def run_experiment(
    parameters: StackParameters,
    script: Script,
    *,
    drain_seconds: float = DRAIN_SECONDS,
    results: Results | None = None,
) -> ExperimentResult:
    """Run one experiment. Raises TimeoutError where what was asked for does not come to an end."""
    journal = results.journal() if results is not None else Journal()
    began, load_average = time.time(), psutil.getloadavg()[0]
    with Lab(parameters, journal=journal) as lab:
        script(lab)
        lab.load.stop()
        lab.drain(drain_seconds)
        history = lab.history()
        outcome = ExperimentResult(
            parameters=parameters,
            history=history,
            invariants=lab.check_invariants(history),
            files=frames.files(lab.engine, lab.load.submitted),
            faults=journal.faults(),
            began=began,
            ended=max((execution.at for execution in history.executions), default=0.0),
            load_average=load_average,
            servers=lab.servers(),
        )
    if results is not None:
        outcome.save(results)
    return outcome


def backlog(count: int, times: int = 1) -> Script:
    """So many requests at once, then as fast as it goes; again when all have ended, `times` in all."""

    def script(lab: Lab) -> None:
        for _ in range(times):
            lab.load.backlog(count)
            lab.drain(DRAIN_SECONDS)

    return script


def steady(seconds: float, rate: float, times: int = 1) -> Script:
    """Requests by the clock, for so long; again when all have ended, `times` in all."""

    def script(lab: Lab) -> None:
        for _ in range(times):
            lab.load.start(lambda load: load.open_loop([LoadStep(seconds, rate)]))
            lab.load.wait()
            lab.drain(DRAIN_SECONDS)

    return script


def summarize_invariants(outcomes: Sequence[ExperimentResult]) -> pd.DataFrame:
    """A line per promise: in how many runs it was observed, and kept; the evidence is the last one's.

    The last cell of a notebook. Raises InvariantViolation for the first run that broke one.
    """
    broken = [outcome.invariants for outcome in outcomes if not outcome.invariants.ok]
    if broken:
        raise InvariantViolation(f"{len(broken)} of {len(outcomes)} runs broke a promise; the first:\n{broken[0]}")
    rows = []
    for checks in zip(*(outcome.invariants.checks for outcome in outcomes), strict=True):
        observed = [check for check in checks if check.ok is not None]
        last = (observed or checks)[-1]
        rows.append(
            {
                "invariant": last.number,
                "promise": last.title,
                "verdict": "kept" if observed else "not observed",
                "runs": len(observed),
                "evidence": last.evidence,
            }
        )
    return pd.DataFrame(rows)
