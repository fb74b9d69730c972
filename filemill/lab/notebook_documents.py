"""Notebooks for a time range of the running pipeline, or for a run of the lab.

They are plain nbformat 4.5 documents, so that the server does not need Jupyter.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from filemill.config.settings import Settings

# Settings that locate the servers, without secrets: these come from the environment or from the stack's home.
_LOCATIONS = (
    "kafka_broker",
    "kafka_group",
    "group_protocol",
    "topic_create",
    "topic_created",
    "topic_dead_letters",
    "topic_worker_events",
    "database_host",
    "database_port",
    "database_user",
    "database_name",
    "s3_endpoint",
    "s3_region",
    "s3_bucket",
)
_LIBRARIES = "from filemill.lab import attach\nfrom filemill.lab.time_range import read_time_range"


def time_range_notebook(begin: datetime, end: datetime, connection: Mapping[str, object]) -> dict[str, Any]:
    """A notebook of the time from `begin` to `end`; `connection` has fields of the settings."""
    about = (
        "# A time range of the pipeline\n\n"
        "The data of the page's charts, with the records and rows. `connection` has fields of filemill's settings. "
        "Passwords come from the environment (`FILEMILL_DATABASE_PASSWORD` …) or from the stack under `home`."
    )
    parameters = [
        f"begin = {begin.isoformat(timespec='milliseconds')!r}",
        f"end = {end.isoformat(timespec='milliseconds')!r}",
        f"connection = {dict(connection)!r}",
    ]
    cells = [
        f"{_LIBRARIES}\n\nwith attach(**connection) as session:\n    data = read_time_range(session, begin, end)",
        "data.throughput()",
        "data.timeline()",
        "data.lag()",
        "data.latencies()",
        "data.operations",
    ]
    return _notebook(about, parameters, cells)


def run_notebook(folder: Path, frames: Sequence[str]) -> dict[str, Any]:
    """A notebook of a results folder, with figures of the `frames` that it has."""
    about = "# A run of the lab\n\nIts frames and figures. Set `other` to a second run to compare both."
    head = (
        "from pathlib import Path\n\n"
        "import pandas as pd\n\n"
        "from filemill.lab import figures, measures\nfrom filemill.lab.results import Results, compare\n\n"
        "results = Results(Path(folder))\nresults.facts"
    )
    faults = 'results.read("faults")' if "faults" in frames else 'pd.DataFrame({"began": [], "ended": []})'
    cells = [head, f"faults = {faults}\nfaults"]
    drawn = {
        "executions": 'figures.throughput(measures.throughput(results.read("executions")), faults)',
        "files": 'figures.unfinished(measures.unfinished(results.read("files")), faults)',
        "assignments": 'figures.timeline(results.read("assignments"), faults)',
        "latencies": 'results.read("latencies")',
    }
    cells += [code for name, code in drawn.items() if name in frames]
    cells.append('compare(results, Results(Path(other))) if other else "set `other` to compare with another run"')
    return _notebook(about, [f"folder = {str(folder)!r}", 'other = ""'], cells)


def connection_settings(settings: Settings, *, embedded: bool) -> dict[str, object]:
    """The settings by which a notebook finds the servers: the home of the embedded stack, or addresses."""
    if embedded:
        return {"home": str(settings.home)}
    return {name: getattr(settings, name) for name in _LOCATIONS if name in settings.model_fields_set}


def encode(notebook: dict[str, Any]) -> bytes:
    """The content of the notebook file."""
    return json.dumps(notebook, indent=1, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _notebook(about: str, parameters: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    code = [_code("parameters", "\n".join(parameters), tags=["parameters"])]
    code += [_code(f"cell-{number}", source) for number, source in enumerate(cells, start=1)]
    return {
        "cells": [{"cell_type": "markdown", "id": "about", "metadata": {}, "source": about}, *code],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _code(name: str, source: str, tags: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": name,
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source,
        "execution_count": None,
        "outputs": [],
    }
