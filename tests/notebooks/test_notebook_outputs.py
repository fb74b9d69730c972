"""Which outputs must not be committed, and how figures become pictures."""

import base64
from pathlib import Path
from typing import Any

import nbformat
import pytest

from filemill.lab.notebook_outputs import NOTEBOOK_MAX_BYTES, PICTURE, PLOTLY, code_hash, problems, publish, read

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
KEPT = "1  Every accepted request ends  kept"


def output(**data: Any) -> nbformat.NotebookNode:
    named = {kind.replace("_", "/", 1): body for kind, body in data.items()}
    made: nbformat.NotebookNode = nbformat.v4.new_output("display_data", data=named)  # type: ignore[no-untyped-call]
    return made


def cell(source: str, count: int | None, *outputs: nbformat.NotebookNode) -> nbformat.NotebookNode:
    made: nbformat.NotebookNode = nbformat.v4.new_code_cell(source)  # type: ignore[no-untyped-call]
    made.execution_count, made.outputs = count, list(outputs)
    return made


def notebook(*more: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Three cells that may be committed; `more` are further outputs of the first."""
    cells = [
        nbformat.v4.new_markdown_cell("# What"),  # type: ignore[no-untyped-call]
        cell("draw()", 1, output(image_png=PNG, text_plain="A figure"), *more),
        cell("summarize_invariants(outcomes)", 2, output(text_plain=KEPT)),
    ]
    made: nbformat.NotebookNode = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    made.metadata["filemill"] = {"outputs_of": code_hash(made)}
    return made


def stream(text: str, name: str = "stdout") -> nbformat.NotebookNode:
    made: nbformat.NotebookNode = nbformat.v4.new_output("stream", name=name, text=text)  # type: ignore[no-untyped-call]
    return made


def test_outputs_of_the_present_code_may_be_committed_and_text_may_change() -> None:
    made = notebook(stream("took 3 s at http://127.0.0.1:8501, 2026-11-23/24, and/or more; tokens: none"))
    made.cells[0].source = "# Other words"
    assert problems(made) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("File /home/somebody/x.py", "an output reveals a path of the machine"),
        ("written to '/tmp/filemill-1'", "an output reveals a path of the machine"),
        ("index https://packages.example.com/simple", "an output reveals an address"),
        ("password=hunter2", "an output reveals a credential"),
        ("{'api_key': 'abc'}", "an output reveals a credential"),
        ("postgresql://me:secret@127.0.0.1/x", "an output reveals a credential"),
    ],
)
def test_paths_addresses_and_credentials_are_found(text: str, problem: str) -> None:
    assert problem in problems(notebook(stream(text)))
    assert problem in problems(notebook(output(text_html=f"<td>{text}</td>", text_plain="a table")))


def test_other_code_order_errors_warnings_scripts_and_size_are_found() -> None:
    other = notebook()
    other.cells[1].source = "draw(better=True)"
    assert problems(other) == ["its outputs come from other code: run it again"]
    order = notebook()
    order.cells[1].execution_count = 3
    assert problems(order) == ["its cells were not run once each, in order"]
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])  # type: ignore[no-untyped-call]
    assert problems(notebook(error)) == ["a cell failed"]
    assert problems(notebook(stream("Warning", "stderr"))) == ["a cell wrote to stderr"]
    script = output(application_javascript="1", text_plain="a script")
    assert problems(notebook(script)) == ["an output is neither text nor a picture: application/javascript"]
    (heavy,) = problems(notebook(stream("x" * NOTEBOOK_MAX_BYTES)))
    assert heavy.startswith("it has ")


@pytest.mark.parametrize("result", [KEPT.replace("kept", "BROKEN"), "kept, and one BROKEN", "a table"])
def test_a_violated_invariant_is_found(result: str) -> None:
    made = notebook()
    made.cells[-1].outputs = [output(text_plain=result)]
    assert problems(made) == ["it does not end with invariants that were kept"]


def test_a_notebook_without_outputs_is_found() -> None:
    made = notebook()
    for one in made.cells[1:]:
        one.outputs, one.execution_count = [], None
    assert problems(made) == [
        "its cells were not run once each, in order",
        "it shows no figure",
        "it does not end with invariants that were kept",
    ]


def write(made: nbformat.NotebookNode, path: Path) -> Path:
    nbformat.write(made, path)  # type: ignore[no-untyped-call]
    return path


def test_publish_copies_outputs_and_keeps_text(tmp_path: Path) -> None:
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Output()"}
    bar = nbformat.v4.new_output("display_data", data=widget)  # type: ignore[no-untyped-call]
    log = stream("%4|1795407791.161|MAXPOLL|rdkafka#consumer-4| leaving group\n\n%3|1.0|FAIL|...\n", "stderr")
    done = write(notebook(bar, log, output(text_html="", text_plain="")), tmp_path / "done.ipynb")
    mine = notebook()
    mine.cells[0].source = "# What it found"
    for one in mine.cells[1:]:
        one.outputs, one.execution_count = [], None
    target = write(mine, tmp_path / "mine.ipynb")
    publish(done, target)
    found = read(target)
    assert found.cells[0].source == "# What it found"
    assert [list(one.data) for one in found.cells[1].outputs] == [["image/png", "text/plain"]]
    mine.cells[1].source = "draw(better=True)"
    write(mine, target)
    with pytest.raises(ValueError, match="ran other code"):
        publish(done, target)


def test_a_warning_in_the_log_of_librdkafka_is_found(tmp_path: Path) -> None:
    done = write(notebook(stream("%4|1.0|FAIL|...\nDeprecationWarning\n", "stderr")), tmp_path / "done.ipynb")
    with pytest.raises(ValueError, match="a cell wrote to stderr"):
        publish(done, write(notebook(), tmp_path / "mine.ipynb"))


def test_unsuitable_outputs_are_not_written(tmp_path: Path) -> None:
    done = write(notebook(stream("/root/secrets")), tmp_path / "done.ipynb")
    target = write(notebook(), tmp_path / "mine.ipynb")
    before = target.read_bytes()
    with pytest.raises(ValueError, match="must not be committed: an output reveals a path"):
        publish(done, target)
    assert target.read_bytes() == before


def test_a_figure_becomes_a_picture(tmp_path: Path, chromium: str) -> None:
    drawn = {"data": [{"type": "scatter", "y": [1, 3, 2]}], "layout": {"title": {"text": "Three points"}}}
    made = notebook(output(**{PLOTLY: drawn}))
    target = write(made, tmp_path / "mine.ipynb")
    publish(target, target)
    found = read(target).cells[1].outputs[1].data
    assert base64.b64decode(found[PICTURE]).startswith(b"\x89PNG")
    assert found["text/plain"] == "Three points"
