"""Fixtures that every kind of test shares."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from tests.containers.engine import Engine, NoEngine, refuse, running_engine
from tests.containers.servers import container_servers
from tests.servers import RunningServers, embedded_servers, isolated_settings

# Building images, starting a dozen containers: what waits for that may wait for longer than other tests.
COMPOSE_TIMEOUT_SECONDS = 900
SETTINGS = ("FILEMILL_", "KAFKA_", "DATABASE_", "S3_", "AWS_ACCESS", "AWS_SECRET", "AWS_ENDPOINT")
MAKE = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "ARGS"}
COMPOSED = "tests/compose/"
# Where the servers come from: embedded, or containers.
KIND = os.environ.get("FILEMILL_TEST_SERVERS", "embedded")


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of a file share a process; all composed stacks share one, too, for there is one Docker engine."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return COMPOSED if file.startswith(COMPOSED) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """How tests are shared out where they run in several processes."""
    return _ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The composed stacks come last: they take the whole machine, and what is broken shows earlier elsewhere.

    Tests of the embedded servers say nothing about servers in containers.
    """
    if KIND == "containers":
        embedded = [item for item in items if item.path.name.startswith("test_embedded_")]
        items[:] = [item for item in items if item not in embedded]
        config.hook.pytest_deselected(items=embedded)
    items.sort(key=lambda item: item.nodeid.startswith(COMPOSED))
    for item in items:
        if item.nodeid.startswith(COMPOSED):
            item.add_marker(pytest.mark.timeout(COMPOSE_TIMEOUT_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def _no_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the person who runs the tests reaches them, and no stack of theirs is found.

    Nor does what was told to the `make` that runs them: one that a test runs would take it for its own.
    """
    for name in list(os.environ):
        if name.startswith(SETTINGS) or name in MAKE:
            del os.environ[name]
    os.environ["FILEMILL_HOME"] = str(tmp_path_factory.mktemp("no-stack"))


@pytest.fixture(scope="session")
def start_servers(request: pytest.FixtureRequest) -> Callable[[Path], AbstractContextManager[RunningServers]]:
    """How to get a Kafka, a PostgreSQL and an S3, with a home that is not there yet.

    Embedded ones; with FILEMILL_TEST_SERVERS=containers, those of docker-compose.yaml.
    """
    if KIND == "containers":
        return partial(container_servers, request.getfixturevalue("docker_engine"))
    return embedded_servers


@pytest.fixture(scope="session")
def servers(
    start_servers: Callable[[Path], AbstractContextManager[RunningServers]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServers]:
    """One of each for the session. Tests that break a server start their own."""
    with start_servers(tmp_path_factory.mktemp("servers") / "home") as servers:
        yield servers


@pytest.fixture
def settings(servers: RunningServers) -> Settings:
    """An empty, prepared world in the session's servers, for this test alone."""
    return isolated_settings(servers)


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    """A pool on the test's database, as its owner: tests change the schema, too."""
    engine = bootstrap.create_engine(settings.as_owner(), "test")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Chromium as the system has it. Without one the tests are skipped, but for CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: install the package `chromium`")
        pytest.skip("no Chromium")
    return program


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """A Docker engine with Compose; none on a laptop skips the test, none in CI fails it."""
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(running_engine())
        except NoEngine as reason:
            refuse(str(reason))
        yield engine
