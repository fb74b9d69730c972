"""All arms of the ratios. Importing the modules below registers their arms."""

from benchmarks import handlers, limits, peers, pipeline, queues, rest, stages
from benchmarks.arm import ARMS, Arm, matches

# The modules that register arms, in the order of the report.
MODULES = (limits, stages, queues, pipeline, handlers, rest, peers)


def select_arms(only: str | None = None) -> list[Arm]:
    """The arms whose name or kind matches `only`. Raises ValueError if none does."""
    found = [one for one in ARMS.values() if matches(only, one.name) or only == one.kind]
    if not found:
        raise ValueError(f"no arm has {only!r} in its name; the arms are: {', '.join(ARMS)}")
    return found
