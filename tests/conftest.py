"""Fixtures for all tests, and the division into fast and full tests."""

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
from tests.containers.engine import Engine, NoEngine, running_engine, skip_or_fail
from tests.containers.servers import container_servers
from tests.servers import RunningServers, embedded_servers, isolated_settings, patient_engine

# Longer than for other tests, because images are built and a dozen containers start.
COMPOSE_TIMEOUT_SECONDS = 900
SETTINGS = ("FILEMILL_", "KAFKA_", "DATABASE_", "S3_", "AWS_ACCESS", "AWS_SECRET", "AWS_ENDPOINT")
MAKE = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "ARGS"}
COMPOSED = "tests/compose/"
# The kind of servers: embedded, or containers.
KIND = os.environ.get("FILEMILL_TEST_SERVERS", "embedded")

# `make test` runs the tests in these folders, and of the other folders the files in FAST_FILES. All others have the
# marker `full`; `make test-rest` and `make test-all` run them.
FAST_FOLDERS = ("tests/unit/", "tests/handlers/", "tests/contract/", "tests/dashboard/")
FAST_FILES = (
    "tests/acceptance/test_stack.py",
    "tests/acceptance/test_wheel.py",
    "tests/browser/test_files_in_a_browser.py",
    *(
        f"tests/integration/test_{name}.py"
        for name in (
            *("pipeline", "takeover", "dead_letters", "operations", "idempotency", "foreign", "verify", "schema"),
            *(
                "rest_files",
                "rest_errors",
                "rest_health",
                "openapi_snapshot",
                "file_queries",
                "group_queries",
                "submissions",
            ),
            *("embedded_faults", "database_roles", "topic_browser"),
        )
    ),
)


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of one file run in one process. Tests of composed stacks share a process, because there is one engine."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return COMPOSED if file.startswith(COMPOSED) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """How xdist distributes tests to processes."""
    return _ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that are not fast as `full`, and run the composed stacks last, because they use the whole machine.

    With servers in containers, tests of the embedded servers are deselected.
    """
    if KIND == "containers":
        embedded = [item for item in items if item.path.name.startswith("test_embedded_")]
        items[:] = [item for item in items if item not in embedded]
        config.hook.pytest_deselected(items=embedded)
    items.sort(key=lambda item: item.nodeid.startswith(COMPOSED))
    missing = [file for file in FAST_FILES if not (config.rootpath / file).is_file()]
    assert not missing, f"FAST_FILES names files that do not exist: {missing}"
    for item in items:
        for marker in item.iter_markers("slow"):
            assert marker.kwargs.get("reason"), f"{item.nodeid}: the marker `slow` needs a reason"
        if not item.nodeid.startswith((*FAST_FOLDERS, *FAST_FILES)):
            item.add_marker(pytest.mark.full)
        if item.nodeid.startswith(COMPOSED):
            item.add_marker(pytest.mark.timeout(COMPOSE_TIMEOUT_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def _no_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Remove settings and the user's stack from the environment, and the variables of the `make` that runs the tests.

    A `make` that a test runs would use them.
    """
    for name in list(os.environ):
        if name.startswith(SETTINGS) or name in MAKE:
            del os.environ[name]
    os.environ["FILEMILL_HOME"] = str(tmp_path_factory.mktemp("no-stack"))


@pytest.fixture(scope="session")
def start_servers(request: pytest.FixtureRequest) -> Callable[[Path], AbstractContextManager[RunningServers]]:
    """Start Kafka, PostgreSQL and S3 in a new home.

    They are embedded, or those of docker-compose.yaml with FILEMILL_TEST_SERVERS=containers.
    """
    if KIND == "containers":
        return partial(container_servers, request.getfixturevalue("docker_engine"))
    return embedded_servers


@pytest.fixture(scope="session")
def servers(
    start_servers: Callable[[Path], AbstractContextManager[RunningServers]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServers]:
    """Servers for the session. Tests that stop or damage a server start their own."""
    with start_servers(tmp_path_factory.mktemp("servers") / "home") as servers:
        yield servers


@pytest.fixture
def settings(servers: RunningServers) -> Settings:
    """Settings for an empty database, bucket, topics and group for this test only."""
    return isolated_settings(servers)


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    """Connections to the test's database as its owner, because some tests change the schema."""
    engine = patient_engine(settings.as_owner())
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's Chromium. Without it the tests are skipped, but fail in CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: install the package `chromium`")
        pytest.skip("no Chromium")
    return program


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """A Docker engine with Compose. Without it the tests are skipped, but fail in CI."""
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(running_engine())
        except NoEngine as reason:
            skip_or_fail(str(reason))
        yield engine
