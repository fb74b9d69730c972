"""A world for each of the lab's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill_infra.embedded.supervisor import Supervisor
from tests.integration.harness import PipelineHarness, open_harness


@pytest.fixture
def harness(servers: Supervisor, tmp_path: Path) -> Iterator[PipelineHarness]:
    """An empty world in the session's servers, for this test alone; no process runs in it yet."""
    with open_harness(servers, tmp_path) as harness:
        yield harness
