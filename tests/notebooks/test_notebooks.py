"""Each notebook, from its first cell to its verdict, at small parameters, against real servers of its own."""

from pathlib import Path

import nbformat
import pytest

from filemill.lab.notebooks import TAG, execute, short_parameters

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def test_the_notebooks_are_there() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_thin_and_ends_with_its_verdict_and_has_no_outputs_in_git(path: Path) -> None:
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [TAG in cell.metadata.get("tags", []) for cell in code].count(True) == 1
    assert code[-1].source.endswith("verdicts(outcomes)")
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert sum(len(cell.source.splitlines()) for cell in code) <= 130
    assert short_parameters(notebook)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_verdict_holds(path: Path, tmp_path: Path) -> None:
    target = tmp_path / path.name
    execute(path, target, short=True)
    done = read(target)
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    figures = [output for output in outputs if PLOTLY in output.get("data", {})]
    assert figures, "it shows no figure"
    assert all(figure["data"][PLOTLY]["data"] for figure in figures), "a figure is empty"
    verdict = done.cells[-1].outputs[-1]["data"]["text/plain"]
    assert "kept" in verdict
    assert "BROKEN" not in verdict


def test_a_parameter_that_a_notebook_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no parameter colour"):
        execute(NOTEBOOKS[0], tmp_path / "out.ipynb", {"colour": "red"})
