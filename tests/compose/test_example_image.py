"""The example in `examples/invoices` as an image on top of ours, alone and as the image of a stack."""

import json
from pathlib import Path

import httpx
import pytest

from filemill_infra.compose import FILES
from tests.compose.stack import composed
from tests.containers.engine import Engine
from tests.containers.images import example_image
from tests.integration.processes import wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "invoices"
pytestmark = pytest.mark.slow(reason="builds another image and starts a composed stack of its own")

TRY = "cat > invoice.json && filemill handlers try invoice --parameters invoice.json >&2 && cat invoice.pdf"


@pytest.fixture(scope="module")
def invoices(image: str, docker_engine: Engine) -> str:
    return example_image(docker_engine, image)


def test_the_image_of_the_example_has_its_handler_and_can_run_it(invoices: str, docker_engine: Engine) -> None:
    confined = ["run", "--rm", "--interactive", "--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL"]  # noqa: S108 - in the container
    listed = json.loads(docker_engine.docker(*confined, invoices, "handlers", "list", "--json", timeout=120))
    assert [one["name"] for one in listed] == ["text", "invoice"]
    parameters = (EXAMPLE / "invoice.json").read_bytes()
    shell = [*confined, "--entrypoint", "sh", invoices, "-c", TRY]
    made = docker_engine.docker(*shell, timeout=120, stdin=parameters)
    assert made.startswith("%PDF-1.4")
    assert "Invoice 2026-17" in made
    assert "29.00" in made


def test_a_composed_stack_makes_invoices(invoices: str, tmp_path: Path) -> None:
    request = {
        "title": "An invoice",
        "handler": "invoice",
        "parameters": json.loads((EXAMPLE / "invoice.json").read_bytes()),
    }
    with (
        composed(tmp_path, invoices, *FILES, project="filemill-test-invoices") as stack,
        httpx.Client(base_url=stack.page, timeout=30) as client,
    ):

        def announced() -> bool:
            return "invoice" in [one["name"] for one in client.get("/api/handlers").json()["items"]]

        wait_until(announced, 60, "the processors have announced the handler", every=0.5)
        answer = client.post("/api/files", json=request)
        assert answer.status_code == 201, answer.text
        file_id = answer.json()["id"]
        stack.harness.wait_for([file_id], seconds=60)
        body = client.get(f"/api/files/{file_id}/download").content
        assert body.startswith(b"%PDF-1.4")
        assert b"Invoice 2026-17" in body
        report = json.loads(stack.compose.execute("dashboard", "filemill", "verify", "--json"))
        assert (report["ok"], report["completed"], report["notes"]) == (True, 1, [])
