"""The lab: start a pipeline of one's own, load it, break it, measure what follows, and judge it.

parameters.py  what a run varies
bench.py       a pipeline that is loaded, watched and judged, wherever it runs (`attach`)
stack.py       `Lab`: one of the lab's own, that may be broken too
composed.py    the same in containers (FILEMILL_LAB_STACK=compose)
load.py        open loop by the clock, closed loop, a backlog
fault.py, faults.py, s3_proxy.py, clock.py, backward.py   what is done to it, and what watches it
journal.py     what was done when
frames.py, measures.py   what followed, as tidy data frames
verdict.py     the invariants, each with its evidence
storm.py, soak.py        all faults by a seeded schedule, under load
experiments.py, results.py, figures.py   one run from start to verdict, its folder, its pictures
scaling.py, naive.py     a law to fit, and a consumer to compare with
conditions.py            on what, with which versions, how busy: what a figure holds for
notebooks.py, published.py   running notebooks from end to end, and their outputs as they are committed
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
    """`Lab`, when it is asked for: who attaches to servers elsewhere need not have the embedded ones installed."""
    if name == "Lab":
        from filemill.lab.stack import Lab  # noqa: PLC0415

        return Lab
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
