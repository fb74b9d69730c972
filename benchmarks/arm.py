"""An arm: one way to do a piece of work, and the number of files of a round. A registry of all arms."""

import inspect
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from benchmarks.meter import Measured
from benchmarks.servers import IsolatedPipeline

Kind = Literal["limit", "stage", "end to end", "peer", "growth", "rest"]
Run = Callable[[IsolatedPipeline, int], Measured]

ARMS: dict[str, "Arm"] = {}


class Arm(msgspec.Struct, frozen=True):
    """`run` does the work in an empty pipeline, proves that all of it was done, and returns the measurement.

    `files` is the number of files of a round at full scale: a few seconds of work. `settings` apply to its pipeline.
    """

    name: str
    kind: Kind
    files: int
    run: Run
    settings: Mapping[str, object] = {}

    @property
    def counts(self) -> str:
        """What the arm counts, and what it leaves out."""
        return inspect.getdoc(self.run) or ""


def arm(name: str, kind: Kind, files: int) -> Callable[[Run], Run]:
    """Register a function as an arm."""

    def register(run: Run) -> Run:
        ARMS[name] = Arm(name, kind, files, run)
        return run

    return register


def matches(only: str | None, name: str) -> bool:
    """Whether a name contains `only` or one of its parts between `;`. None matches every name."""
    return only is None or any(part in name for part in only.split(";"))
