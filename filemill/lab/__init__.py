"""The lab: start a pipeline of one's own, load it, break it, measure what follows, and judge it.

parameters.py  what a run varies
bench.py       a pipeline that is loaded, watched and judged, wherever it runs (`attach`)
stack.py       `Lab`: one of the lab's own, that may be broken too
load.py        open loop by the clock, closed loop, a backlog
fault.py, faults.py, s3_proxy.py, clock.py, backward.py   what is done to it, and what watches it
journal.py     what was done when
frames.py, measures.py   what followed, as tidy data frames
verdict.py     the invariants, each with its evidence
storm.py, soak.py        all faults by a seeded schedule, under load
results.py, figures.py   one folder a run; pictures of it
"""

from filemill.lab.bench import Bench, attach
from filemill.lab.load import Load, Step
from filemill.lab.parameters import StackParameters
from filemill.lab.stack import Lab
from filemill.lab.verdict import BrokenPromise, Verdict

__all__ = ["Bench", "BrokenPromise", "Lab", "Load", "StackParameters", "Step", "Verdict", "attach"]
