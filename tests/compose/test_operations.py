"""The commands of docs/operations.md, run in order."""

import os
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from filemill_infra.compose import CHECKOUT, Compose
from tests.compose.stack import own_settings

PROJECT = "filemill-reader"
PAGE = CHECKOUT / "docs" / "operations.md"
COMMAND_SECONDS = 300
# A command can fail while a server starts or a group rebalances; a user would retry it.
RETRY_SECONDS = 60


def commands() -> list[str]:
    """The lines of the page's shell blocks; a line that sets variables is added to the others of its block."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    found = []
    for block in blocks:
        variables = ""
        for line in filter(str.strip, block.splitlines()):
            if line.startswith("eval "):
                variables = f"{line}; "
            else:
                found.append(variables + line)
    return found


@pytest.fixture(scope="module")
def reader(image: str) -> Iterator[dict[str, str]]:
    """The environment of a user on a machine whose default ports are in use."""
    environment = {**own_settings(image), "COMPOSE_PROJECT_NAME": PROJECT}
    yield environment
    Compose(project=PROJECT, environment=environment).down(volumes=True, seconds=0)


def run(command: str, environment: dict[str, str]) -> str:
    """Run a command; a failed `docker compose exec` is retried for a time."""
    with_ports = command.replace(":8501", f":{environment['PAGE_PORT']}")
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", with_ports],
            cwd=CHECKOUT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() > deadline or "docker compose exec" not in command:
            raise AssertionError(
                f"{command}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            )
        time.sleep(2)


def test_every_command_of_the_page_works_in_order(reader: dict[str, str]) -> None:
    listed = commands()
    assert len(listed) > 40
    for command in listed:
        began = time.monotonic()
        run(command, reader)
        print(f"{time.monotonic() - began:6.1f} s  {command}")


def test_make_help_lists_the_compose_targets(reader: dict[str, str]) -> None:
    output = run("make help", reader)
    for target in ("compose-up", "compose-down", "compose-scale", "compose-logs", "compose-rebuild"):
        assert target in output
