"""Runs notebooks, for `make notebooks` and CI.

The cell with the tag `parameters` has the parameters of a full run. The metadata `filemill.short` have those of a short
run. The last cell raises if a run violated an invariant.
"""

import os
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

CELL_SECONDS = 1800
TAG = "parameters"
INJECTED = "injected-parameters"


def short_parameters(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """The parameters of a short run."""
    found: dict[str, Any] = dict(notebook.metadata.get("filemill", {}).get("short", {}))
    return found


def execute(source: Path, target: Path, parameters: dict[str, Any] | None = None, *, short: bool = False) -> float:
    """Run a notebook, write it with its outputs to `target`, and return the seconds it took.

    Raises nbclient's CellExecutionError for a failing cell, after writing the outputs so far; ValueError for an unknown
    parameter.
    """
    notebook = nbformat.read(source, as_version=4)  # type: ignore[no-untyped-call]
    given = {**(short_parameters(notebook) if short else {}), **(parameters or {})}
    if given:
        _inject(notebook, given, source)
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(source.parent)}}
    )
    began = time.monotonic()
    try:
        client.execute(env=dict(os.environ))
    finally:
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)  # type: ignore[no-untyped-call]
    return time.monotonic() - began


def _inject(notebook: nbformat.NotebookNode, parameters: dict[str, Any], source: Path) -> None:
    for index, cell in enumerate(notebook.cells):
        if TAG in cell.metadata.get("tags", []):
            unknown = [name for name in parameters if f"\n{name} = " not in f"\n{cell.source}"]
            if unknown:
                raise ValueError(f"{source.name} has no parameter {', '.join(unknown)}")
            lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
            new = nbformat.v4.new_code_cell(lines, metadata={"tags": [INJECTED]})  # type: ignore[no-untyped-call]
            notebook.cells.insert(index + 1, new)
            return
    raise ValueError(f"{source.name} has no cell with the tag {TAG!r}")
