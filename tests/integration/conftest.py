"""Worlds for the tests with real servers and real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill.config.settings import Settings
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.rest import Rest, serving
from tests.servers import RunningServers


@pytest.fixture
def harness(servers: RunningServers, tmp_path: Path) -> Iterator[PipelineHarness]:
    """An empty world in the session's servers, for this test alone; no process runs in it yet."""
    with open_harness(servers, tmp_path) as harness:
        yield harness


@pytest.fixture
def rest(settings: Settings) -> Iterator[Rest]:
    """REST on an empty world of this test's own."""
    with serving(settings) as rest:
        yield rest
