"""The research library: start a pipeline, load it, inject faults, measure the effects, check the invariants.

parameters.py            what a run varies
session.py               load, observe and check any pipeline (`attach`)
stack.py                 `Lab`: a pipeline of its own, for faults
compose_stack.py         the same in containers (FILEMILL_LAB_STACK=compose)
load.py                  open loop, closed loop, backlog
faults.py, s3_proxy.py, clock.py, database.py, raw_records.py   faults and their means
planted_losses.py, status_regressions.py                        what faults remove; statuses that move backwards
chaos.py, soak.py        all faults by a seeded schedule, under load
invariants.py            the check of all invariants of a run
frames.py, measures.py, figures.py, scaling.py   data frames, what they show, plots, a scalability law
experiments.py, results.py, runs.py, conditions.py   one run from start to check, its folder, its conditions
blocking_consumer.py     a consumer for comparison that blocks while it works
time_range.py            a time range of a running pipeline
notebooks.py, notebook_outputs.py, notebook_documents.py   run notebooks, commit their outputs, generate notebooks
"""

from typing import TYPE_CHECKING

from filemill.lab.invariants import InvariantReport, InvariantViolation
from filemill.lab.load import LoadGenerator, LoadStep
from filemill.lab.parameters import StackParameters
from filemill.lab.session import PipelineSession, attach

if TYPE_CHECKING:
    from filemill.lab.stack import Lab

__all__ = [
    "InvariantReport",
    "InvariantViolation",
    "Lab",
    "LoadGenerator",
    "LoadStep",
    "PipelineSession",
    "StackParameters",
    "attach",
]


def __getattr__(name: str) -> type["Lab"]:
    """Import `Lab` on demand: `attach` works without the packages of the embedded servers."""
    if name == "Lab":
        from filemill.lab.stack import Lab  # noqa: PLC0415

        return Lab
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
