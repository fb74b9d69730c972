"""The conditions of a measurement: what affects the figures besides the code."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pandas as pd

from filemill.lab.experiments import ExperimentResult
from filemill.lab.results import machine, versions


def conditions(outcomes: Sequence[ExperimentResult]) -> pd.DataFrame:
    """Time, machine, versions, and the load average before each run; one row per fact."""
    host = machine()
    loads = [outcome.load_average for outcome in outcomes]
    began, ended = (
        datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
        for moment in (outcomes[0].began, outcomes[-1].ended)
    )
    found = {**versions(), **outcomes[-1].servers}
    found.pop("commit", None)  # a reader of a committed notebook knows the commit
    facts = {
        "measured": f"{began} to {ended}; stacks started: {len(outcomes)}",
        "machine": f"{host['cores']} cores ({host['processor']}), {host['memory_gb']} GB, {host['system']}",
        "load average before a run": f"{min(loads):.1f} to {max(loads):.1f}",
        "versions": ", ".join(f"{name} {version}" for name, version in found.items()),
    }
    return pd.DataFrame({"condition": list(facts), "value": list(facts.values())}).set_index("condition")
