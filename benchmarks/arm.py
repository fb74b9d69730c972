"""An arm: one way to do one piece of work, and how often it is done in a round."""

import inspect
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from benchmarks.meter import Measured
from benchmarks.servers import IsolatedPipeline

Kind = Literal["limit", "stage", "end to end", "peer", "growth"]
Run = Callable[[IsolatedPipeline, int], Measured]

ARMS: dict[str, "Arm"] = {}


class Arm(msgspec.Struct, frozen=True):
    """`run` gets an empty world, does the work, proves from outside that all of it was done, and returns the measure.

    `files` is how many a round does at full scale: a few seconds of work. `settings` are those of its world.
    """

    name: str
    kind: Kind
    files: int
    run: Run
    settings: Mapping[str, object] = {}

    @property
    def counts(self) -> str:
        """What it counts, and what it leaves out."""
        return inspect.getdoc(self.run) or ""


def arm(name: str, kind: Kind, files: int) -> Callable[[Run], Run]:
    """Register a function as an arm."""

    def register(run: Run) -> Run:
        ARMS[name] = Arm(name, kind, files, run)
        return run

    return register


def matches(only: str | None, name: str) -> bool:
    """Whether a name has `only`, or one of its parts between `;`, in it; None: whichever it is."""
    return only is None or any(part in name for part in only.split(";"))


def select_arms(only: str | None = None) -> list[Arm]:
    """The arms, or those `named` so or of that kind. Raises ValueError where none has."""
    from benchmarks import limits, peers, pipeline, stages  # noqa: F401, PLC0415 - they register themselves

    found = [one for one in ARMS.values() if matches(only, one.name) or only == one.kind]
    if not found:
        raise ValueError(f"no arm has {only!r} in its name; there are: {', '.join(ARMS)}")
    return found
