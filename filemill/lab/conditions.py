"""Under which conditions figures came about: what decides them beside the code, and is another thing elsewhere."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pandas as pd

from filemill.lab.experiments import ExperimentResult
from filemill.lab.results import machine, versions


def conditions(outcomes: Sequence[ExperimentResult]) -> pd.DataFrame:
    """When, on what, with which versions, and how busy the machine was before each run. A line a fact."""
    on = machine()
    loads = [outcome.load_average for outcome in outcomes]
    began, ended = (
        datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
        for moment in (outcomes[0].began, outcomes[-1].ended)
    )
    found = {**versions(), **outcomes[-1].servers}
    found.pop("commit", None)  # who reads a notebook in a repository has the commit
    facts = {
        "measured": f"{began} to {ended}; stacks started: {len(outcomes)}",
        "machine": f"{on['cores']} cores ({on['processor']}), {on['memory_gb']} GB, {on['system']}",
        "load average before a run": f"{min(loads):.1f} to {max(loads):.1f}",
        "versions": ", ".join(f"{name} {version}" for name, version in found.items()),
    }
    return pd.DataFrame({"condition": list(facts), "value": list(facts.values())}).set_index("condition")
