"""JupyterLab in a container of the stack."""

import re

import httpx
import pytest

from tests.compose.stack import Stack
from tests.containers.engine import Engine
from tests.containers.images import lab_image
from tests.integration.processes import wait_until

ANSWER_SECONDS = 120.0
PROGRAM = (
    "from filemill.lab import attach, frames\n"
    "with attach() as session:\n"
    "    session.check_invariants().require()\n"
    "    print((frames.files(session.engine)['status'] == 'completed').sum())\n"
)


@pytest.mark.slow(reason="builds an image with Jupyter, which takes ten minutes")
@pytest.mark.timeout(1800)
def test_jupyter_has_the_notebooks_and_connects_to_the_stack(stack: Stack, docker_engine: Engine) -> None:
    stack.compose.environment["FILEMILL_LAB_IMAGE"] = lab_image(docker_engine)

    def compose(*arguments: str) -> str:
        return stack.compose.run("--profile", "lab", *arguments)

    compose("up", "--detach", "--no-deps", "jupyter")
    try:
        pattern = re.compile(r"/lab\?token=([0-9a-f]+)")
        found = wait_until(lambda: pattern.search(compose("logs", "--no-color", "jupyter")), ANSWER_SECONDS, "a token")
        assert found is not None
        contents = f"http://127.0.0.1:{stack.ports['JUPYTER_PORT']}/api/contents"
        assert httpx.get(contents, timeout=20).status_code == 403, "a request without a token is rejected"
        listed = httpx.get(contents, params={"token": found[1]}, timeout=20).json()["content"]
        assert {"01_throughput.ipynb", "07_long_jobs.ipynb"} <= {entry["name"] for entry in listed}

        ids = stack.submit(3, "For Jupyter")
        stack.harness.wait_for(ids, seconds=ANSWER_SECONDS)
        assert int(compose("exec", "--no-TTY", "jupyter", "python", "-c", PROGRAM)) == 3
        assert compose("exec", "--no-TTY", "jupyter", "id", "--user").strip() == "10001"
    finally:
        compose("rm", "--stop", "--force", "jupyter")
