"""Fixtures for the lab's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill_infra.embedded.supervisor import Supervisor
from tests.integration.harness import PipelineHarness, open_harness


@pytest.fixture
def harness(servers: Supervisor, tmp_path: Path) -> Iterator[PipelineHarness]:
    """A harness with an empty pipeline on the session's servers; no process runs yet."""
    with open_harness(servers, tmp_path) as harness:
        yield harness
