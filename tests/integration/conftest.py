"""Fixtures for tests with real servers and processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill.config.settings import Settings
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.rest import Rest, serving
from tests.servers import RunningServers


@pytest.fixture
def harness(servers: RunningServers, tmp_path: Path) -> Iterator[PipelineHarness]:
    """A harness with an empty pipeline on the session's servers; no process runs yet."""
    with open_harness(servers, tmp_path) as harness:
        yield harness


@pytest.fixture
def rest(settings: Settings) -> Iterator[Rest]:
    """REST on an empty pipeline for this test only."""
    with serving(settings) as rest:
        yield rest
