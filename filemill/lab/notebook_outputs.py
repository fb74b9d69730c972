"""The outputs of notebooks as they are committed, for readers who do not run them.

Figures become pictures; progress bars and widgets are removed. A hash identifies the code that produced the outputs.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import plotly.io

from filemill.lab.invariants import RESULT_WORDS

PLOTLY = "application/vnd.plotly.v1+json"
PICTURE = "image/png"
# The size in pixels of a figure without a height; pictures are drawn at the scale.
WIDTH, HEIGHT, SCALE = 900, 420, 1.5
LAST_CELL = "summarize_invariants(outcomes)"
NOTEBOOK_MAX_BYTES = 600_000
# librdkafka logs to the terminal, mostly about connections that a fault has closed.
_RDKAFKA = re.compile(r"%\d\|")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_KEPT = (PICTURE, "text/html", "text/markdown", "text/plain")
# Outputs must not reveal the machine or a credential.
_PRIVATE = {
    "a path of the machine": re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|var|opt|usr|mnt)/[\w.]"),
    "an address": re.compile(r"https?://(?!127\.0\.0\.1|localhost)", re.IGNORECASE),
    "a credential": re.compile(
        r"(?:password|passwd|secret|token|api[_-]?key)['\"]?\s*[=:]\s*\S|://[^\s/]+:[^\s/]+@|AKIA[A-Z0-9]{12}",
        re.IGNORECASE,
    ),
}


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """The hash of the code cells. Text cells may change without a new run."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def publish(executed: Path, target: Path) -> None:
    """Copy the outputs of a full run into the notebook; its text cells stay unchanged.

    Raises ValueError for outputs that must not be committed or come from other code; RuntimeError without a browser to
    draw the figures.
    """
    executed_notebook, notebook = read(executed), read(target)
    if code_hash(executed_notebook) != code_hash(notebook):
        raise ValueError(f"{executed} ran other code than {target}: run it again with full parameters")
    run = [cell for cell in executed_notebook.cells if cell.cell_type == "code"]
    for cell, ran in zip((cell for cell in notebook.cells if cell.cell_type == "code"), run, strict=True):
        cell.outputs = [_still(output) for output in ran.outputs if _is_content(output)]
        cell.execution_count = ran.execution_count
    notebook.metadata.setdefault("filemill", {})["outputs_of"] = code_hash(notebook)
    found = problems(notebook)
    if found:
        raise ValueError(f"{executed} must not be committed: {'; '.join(found)}")
    nbformat.write(notebook, target)  # type: ignore[no-untyped-call]


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook. Raises what nbformat raises."""
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """Why the outputs of a notebook must not be committed; empty if they may be."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    found = []
    if notebook.metadata.get("filemill", {}).get("outputs_of") != code_hash(notebook):
        found.append("its outputs come from other code: run it again")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its cells were not run once each, in order")
    if any(output.output_type == "error" for output in outputs):
        found.append("a cell failed")
    if any(output.get("name") == "stderr" for output in outputs):
        found.append("a cell wrote to stderr")
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    if not kinds <= set(_KEPT):
        found.append(f"an output is neither text nor a picture: {', '.join(sorted(kinds - set(_KEPT)))}")
    if PICTURE not in kinds:
        found.append("it shows no figure")
    last = code[-1].outputs[-1].get("data", {}).get("text/plain", "") if code and code[-1].outputs else ""
    if (
        not code
        or not code[-1].source.endswith(LAST_CELL)
        or RESULT_WORDS[True] not in last
        or RESULT_WORDS[False] in last
    ):
        found.append("it does not end with invariants that were kept")
    texts = list(_texts(outputs))
    found += [
        f"an output reveals {what}" for what, shape in _PRIVATE.items() if any(shape.search(text) for text in texts)
    ]
    size = len(nbformat.writes(notebook).encode())  # type: ignore[no-untyped-call]
    if size > NOTEBOOK_MAX_BYTES:
        found.append(f"it has {size:,} bytes; the limit is {NOTEBOOK_MAX_BYTES:,}")
    return found


def _is_content(output: nbformat.NotebookNode) -> bool:
    """Whether it is neither a progress bar (a widget, then an empty text) nor a log of librdkafka."""
    if output.get("name") == "stderr":
        return not all(_RDKAFKA.match(line) for line in output.text.splitlines() if line.strip())
    data = output.get("data")
    return data is None or (_WIDGET not in data and (bool(data.get("text/plain", "").strip()) or PLOTLY in data))


def _still(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    drawn = output.get("data", {}).get(PLOTLY)
    if drawn is None:
        return output
    figure = plotly.io.from_json(json.dumps(drawn), skip_invalid=True)
    title = figure.layout.title.text or "Figure"
    picture = figure.to_image(
        PICTURE.partition("/")[2], width=WIDTH, height=figure.layout.height or HEIGHT, scale=SCALE
    )
    output.data = {PICTURE: base64.b64encode(picture).decode(), "text/plain": title}
    return output


def _texts(outputs: list[nbformat.NotebookNode]) -> Iterator[str]:
    for output in outputs:
        yield output.get("text", "")
        for kind, body in output.get("data", {}).items():
            if kind != PICTURE:
                yield str(body)
