"""Experiments: start a stack, run a script on it, wait until all requests have ended, and collect the results.

Notebooks use this. A script is a function that takes the lab and submits load, injects faults, or both.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import plotly.graph_objects as go
import psutil

from filemill.lab import figures, frames, measures
from filemill.lab.invariants import RESULT_WORDS, InvariantReport, InvariantViolation
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
    """The result of one run. Moments are seconds since the epoch; in `history` they are by the broker's clock."""

    parameters: StackParameters
    history: TopicHistory
    invariants: InvariantReport
    files: pd.DataFrame
    faults: list[JournalEntry]
    began: float
    ended: float
    # The load average of the machine over the minute before the stack was started.
    load_average: float
    # The versions of the servers by name; empty if the lab did not start them.
    servers: dict[str, str]

    @cached_property
    def executions(self) -> pd.DataFrame:
        """One row per result."""
        return frames.executions(self.history)

    @cached_property
    def events(self) -> pd.DataFrame:
        """One row per worker event."""
        return frames.events(self.history)

    @cached_property
    def assignments(self) -> pd.DataFrame:
        """One row per period of ownership."""
        return frames.assignments(self.history, self.ended, measures.kills(self.faults))

    @cached_property
    def fault_frame(self) -> pd.DataFrame:
        """One row per fault."""
        return frames.faults(self.faults)

    @cached_property
    def latencies(self) -> pd.DataFrame:
        """Percentiles per stage, in seconds."""
        return measures.latencies(self.files)

    @cached_property
    def summary(self) -> dict[str, float]:
        """The numbers for comparing runs. Rates are per second, from the first result to the last."""
        first = self.executions[~self.executions["again"]]
        seconds = (first["at"].max() - first["at"].min()).total_seconds() if len(first) > 1 else float("nan")
        (end_to_end,) = self.latencies[self.latencies["stage"] == "end to end"].to_dict("records")
        recoveries = measures.recovery(self.history, self.faults)
        return {
            "files": len(self.files),
            "files_per_second": len(first) / seconds if seconds else float("nan"),
            "end_to_end_p50": float(end_to_end["p50"]),
            "end_to_end_p99": float(end_to_end["p99"]),
            "recovery_median": float(recoveries["recovery_seconds"].median()),
            **measures.repetitions(self.history),
            **measures.fairness(self.executions),
            **measures.cost(self.events, len(self.files), self.history.payload_bytes),
        }

    def timeline(self) -> go.Figure:
        """A timeline of partition owners, with the faults."""
        return figures.timeline(self.assignments, self.fault_frame)

    def throughput(self) -> go.Figure:
        """Results per second by worker, with the faults."""
        return figures.throughput(measures.throughput(self.executions), self.fault_frame)

    def unfinished(self) -> go.Figure:
        """Unfinished requests over time, with the faults."""
        return figures.unfinished(measures.unfinished(self.files), self.fault_frame)

    def save(self, results: Results) -> None:
        """Save frames, figures, invariants and summary into a folder."""
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
            "unfinished": self.unfinished(),
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
    """Run one experiment. Raises TimeoutError if the requests do not end in time."""
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
    """A script: submit a backlog of `count` requests and drain it, `times` times."""

    def script(lab: Lab) -> None:
        for _ in range(times):
            lab.load.backlog(count)
            lab.drain(DRAIN_SECONDS)

    return script


def steady(seconds: float, rate: float, times: int = 1) -> Script:
    """A script: submit at `rate` per second for `seconds` and drain, `times` times."""

    def script(lab: Lab) -> None:
        for _ in range(times):
            lab.load.start(lambda load: load.open_loop([LoadStep(seconds, rate)]))
            lab.load.wait()
            lab.drain(DRAIN_SECONDS)

    return script


def summarize_invariants(outcomes: Sequence[ExperimentResult]) -> pd.DataFrame:
    """One row per invariant: the number of runs that observed it, and the evidence of the last one.

    For the last cell of a notebook. Raises InvariantViolation if a run violated an invariant.
    """
    violated = [outcome.invariants for outcome in outcomes if not outcome.invariants.ok]
    if violated:
        raise InvariantViolation(
            f"{len(violated)} of {len(outcomes)} runs violated an invariant; the first:\n{violated[0]}"
        )
    rows = []
    for checks in zip(*(outcome.invariants.checks for outcome in outcomes), strict=True):
        observed = [check for check in checks if check.ok is not None]
        last = (observed or checks)[-1]
        rows.append(
            {
                "number": last.number,
                "invariant": last.title,
                "result": RESULT_WORDS[True] if observed else RESULT_WORDS[None],
                "runs": len(observed),
                "evidence": last.evidence,
            }
        )
    return pd.DataFrame(rows)
