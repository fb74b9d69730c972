"""A world for each of the lab's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill_infra.embedded.supervisor import Supervisor
from tests.integration.world import World, pipeline


@pytest.fixture
def world(servers: Supervisor, tmp_path: Path) -> Iterator[World]:
    """An empty world in the session's servers, for this test alone; no process runs in it yet."""
    with pipeline(servers, tmp_path) as world:
        yield world
