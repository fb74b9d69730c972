"""A time range of a running pipeline, and the notebooks for it and for runs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest

from filemill.config.settings import as_environment
from filemill.lab import attach, notebook_documents
from filemill.lab.notebooks import execute
from filemill.lab.runs import list_runs
from filemill.lab.time_range import read_time_range
from filemill.services.audit import record
from tests.integration.harness import PipelineHarness
from tests.integration.rest import serving
from tests.principals import PAGE
from tests.runs import planted


def outputs(path: Path) -> str:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return str([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])


@pytest.fixture
def _kernel_finds_it(monkeypatch: pytest.MonkeyPatch, harness: PipelineHarness) -> None:
    """What `connection` does not hold, passwords and keys, comes from the environment."""
    for name, value in as_environment(harness.settings).items():
        if "PASSWORD" in name or "SECRET" in name or "ACCESS_KEY" in name:
            monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_kernel_finds_it")
@pytest.mark.timeout(180)
def test_the_notebook_of_a_time_range_runs(harness: PipelineHarness, tmp_path: Path) -> None:
    harness.run_in_threads("relay", "sync")
    earlier = harness.submit(4)
    harness.start("processor", "monitor")
    harness.wait_for(earlier)
    begin = datetime.now(UTC)
    ids = harness.submit(7)
    harness.wait_for(ids)
    with harness.engine.begin() as connection:
        record(
            connection,
            PAGE,
            "fault",
            {"fault": "stopped", "target": "kafka", "seconds": 2.0, "key": "k"},
        )
    end = datetime.now(UTC) + timedelta(seconds=1)
    given = {name: getattr(harness.settings, name) for name in harness.settings.model_fields_set}
    with attach(**given) as session:
        data = read_time_range(session, begin, end)
        nothing = read_time_range(session, begin - timedelta(hours=2), begin - timedelta(hours=1))
    assert sorted(data.executions["file_id"]) == sorted(ids)
    assert sorted(data.files["id"]) == sorted(ids)
    assert set(data.assignments["partition"]) == {0, 1, 2}  # taken before the time range began
    assert (data.faults["ended"] - data.faults["began"]).dt.total_seconds().tolist() == [2.0]
    assert [shape.type for shape in data.throughput().layout.shapes].count("rect") == 1
    assert nothing.executions.empty
    assert len(nothing.latencies()) == 4
    for figure in (nothing.throughput(), nothing.timeline(), nothing.lag()):
        assert figure.layout.title.text

    places = notebook_documents.connection_settings(harness.settings, embedded=False)
    assert not any("password" in name or "secret" in name or "key" in name for name in places)
    notebook = notebook_documents.time_range_notebook(begin, end, places)
    nbformat.validate(nbformat.from_dict(notebook))  # type: ignore[no-untyped-call]
    source = tmp_path / "data.ipynb"
    source.write_bytes(notebook_documents.encode(notebook))
    execute(source, tmp_path / "done.ipynb")
    assert "Results per second" in outputs(tmp_path / "done.ipynb")


@pytest.mark.timeout(120)
def test_the_notebook_of_a_run_runs(harness: PipelineHarness, tmp_path: Path) -> None:
    root = tmp_path / "results"
    folder = planted(root, 'it\'s a "run"').folder
    (run,) = list_runs(root)
    with serving(harness.settings.model_copy(update={"results": root})) as rest:
        answer = rest.client.get("/api/notebook", params={"run": run.name})
        assert answer.headers["content-disposition"].startswith("attachment")
        for name in ("..", "nowhere", "../results", f"../{root.name}/{run.name}"):
            assert rest.client.get("/api/notebook", params={"run": name}).status_code == 404
        window = rest.client.get("/api/notebook", params={"period": 300}).json()
        assert rest.client.get("/api/notebook", params={"period": 0}).status_code == 422
    assert "begin = '2" in window["cells"][1]["source"]
    assert window["cells"][1]["metadata"]["tags"] == ["parameters"]
    source = tmp_path / "run.ipynb"
    source.write_bytes(answer.content)
    nbformat.validate(nbformat.read(source, as_version=4))  # type: ignore[no-untyped-call]
    execute(source, tmp_path / "done.ipynb", {"other": str(folder)})
    told = outputs(tmp_path / "done.ipynb")
    assert "Results per second" in told
    assert "change_percent" in told
