"""Each notebook: its committed form, and a short run to its last cell."""

from pathlib import Path

import nbformat
import pytest

from filemill.lab.notebook_outputs import PLOTLY, code_hash, problems, read
from filemill.lab.notebooks import TAG, execute, short_parameters

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# For all together: a clone contains every version of them.
ALL_MAX_BYTES = 3_000_000


def code_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebooks_exist_and_are_small() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07"]
    assert sum(path.stat().st_size for path in NOTEBOOKS) < ALL_MAX_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_ends_with_its_invariants(path: Path) -> None:
    notebook = read(path)
    code = code_of(notebook)
    assert [TAG in cell.metadata.get("tags", []) for cell in code].count(True) == 1
    assert code[-1].source.endswith("summarize_invariants(outcomes)")
    assert sum(len(cell.source.splitlines()) for cell in code) <= 150
    assert short_parameters(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_has_the_outputs_of_a_full_run_of_its_own_code(path: Path) -> None:
    notebook = read(path)
    assert problems(notebook) == []
    told = "\n".join(str(output.get("data", {}).get("text/plain")) for output in code_of(notebook)[-2].outputs)
    assert "load average" in told, "it does not show its conditions"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_short_run_keeps_all_invariants(path: Path, tmp_path: Path) -> None:
    target = tmp_path / path.name
    execute(path, target, short=True)
    done = read(target)
    outputs = [output for cell in code_of(done) for output in cell.outputs]
    figures = [output for output in outputs if PLOTLY in output.get("data", {})]
    assert figures, "it shows no figure"
    assert all(figure["data"][PLOTLY]["data"] for figure in figures), "a figure is empty"
    invariants = done.cells[-1].outputs[-1]["data"]["text/plain"]
    assert "kept" in invariants
    assert "BROKEN" not in invariants
    # A short run cannot be published.
    assert code_hash(done) != code_hash(read(path))


def test_a_parameter_that_a_notebook_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no parameter colour"):
        execute(NOTEBOOKS[0], tmp_path / "out.ipynb", {"colour": "red"})
