"""Worlds for the tests with real servers and real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill.config.settings import Settings
from tests.integration.rest import Rest, serving
from tests.integration.world import World, pipeline
from tests.servers import Servers


@pytest.fixture
def world(servers: Servers, tmp_path: Path) -> Iterator[World]:
    """An empty world in the session's servers, for this test alone; no process runs in it yet."""
    with pipeline(servers, tmp_path) as world:
        yield world


@pytest.fixture
def rest(settings: Settings) -> Iterator[Rest]:
    """REST on an empty world of this test's own."""
    with serving(settings) as rest:
        yield rest
