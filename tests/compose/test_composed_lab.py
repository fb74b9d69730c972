"""The lab with containers: its faults, its measures and its invariants."""

from pathlib import Path

import pytest

from filemill.lab import Lab, LoadStep, StackParameters, faults, measures
from filemill.lab.notebooks import execute
from filemill_infra.compose import CHECKOUT


@pytest.fixture(autouse=True)
def _on_containers(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILEMILL_LAB_STACK", "compose")
    monkeypatch.setenv("FILEMILL_IMAGE", image)


@pytest.mark.slow(reason="takes minutes; the lab's tests show the same with embedded servers")
def test_the_lab_scales_kills_suspends_and_checks_containers() -> None:
    with Lab(StackParameters(workers=2, processing_seconds=0.5)) as lab:
        lab.load.start(lambda load: load.open_loop([LoadStep(3600, 20)]))
        first = lab.workers()
        assert len(first) == 2

        killed = lab.inject(faults.kill_worker(lab))
        assert killed.target not in lab.workers()
        assert len(lab.workers()) == 2
        lab.inject(faults.scale(lab, 3))
        lab.wait_for_group()
        lab.inject(faults.suspend(lab, seconds=8))
        lab.inject(faults.s3_answers(lab, 503, seconds=2))
        lab.inject(faults.terminate(lab))
        lab.inject(faults.kill_server(lab, "postgres", seconds=1))
        lab.load.stop()
        lab.drain(120)

        history = lab.history()
        lab.check_invariants(history).require()
        assert {event.event.worker_id for event in history.events} >= {*first, *lab.workers()}
        assert len(measures.kills(lab.journal.faults())) == 1


@pytest.mark.slow(reason="takes minutes; the notebooks run with embedded servers")
@pytest.mark.parametrize("name", ["02_rebalancing", "03_failures"])
def test_the_notebooks_run_with_containers(name: str, tmp_path: Path) -> None:
    execute(CHECKOUT / "notebooks" / f"{name}.ipynb", tmp_path / f"{name}.ipynb", short=True)
