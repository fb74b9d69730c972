"""JupyterLab in a container, beside the stack that it looks at."""

import re

import httpx
import pytest

from tests.compose.stack import Stack
from tests.containers.engine import Engine
from tests.containers.images import lab_image
from tests.integration.processes import wait_until

ANSWER_SECONDS = 120.0
LOOK = (
    "from filemill.lab import attach, frames\n"
    "with attach() as session:\n"
    "    session.check_invariants().require()\n"
    "    print((frames.files(session.engine)['status'] == 'completed').sum())\n"
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_jupyter_shows_the_notebooks_and_what_runs_in_it_reaches_the_stack(stack: Stack, docker_engine: Engine) -> None:
    stack.compose.environment["FILEMILL_LAB_IMAGE"] = lab_image(docker_engine)

    def compose(*arguments: str) -> str:
        return stack.compose.run("--profile", "lab", *arguments)

    compose("up", "--detach", "--no-deps", "jupyter")
    try:
        pattern = re.compile(r"/lab\?token=([0-9a-f]+)")
        found = wait_until(lambda: pattern.search(compose("logs", "--no-color", "jupyter")), ANSWER_SECONDS, "a token")
        assert found is not None
        contents = f"http://127.0.0.1:{stack.ports['JUPYTER_PORT']}/api/contents"
        assert httpx.get(contents, timeout=20).status_code == 403, "who has no token is not let in"
        listed = httpx.get(contents, params={"token": found[1]}, timeout=20).json()["content"]
        assert {"01_throughput.ipynb", "07_long_jobs.ipynb"} <= {entry["name"] for entry in listed}

        ids = stack.submit(3, "Looked at")
        stack.harness.wait_for(ids, seconds=ANSWER_SECONDS)
        assert int(compose("exec", "--no-TTY", "jupyter", "python", "-c", LOOK)) == 3
        assert compose("exec", "--no-TTY", "jupyter", "id", "--user").strip() == "10001"
    finally:
        compose("rm", "--stop", "--force", "jupyter")
