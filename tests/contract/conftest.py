"""Each suite runs twice: on the in-memory adapters of the package, and on the embedded servers."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from tests.contract.harness import DatabaseHarness, MemoryHarness, PostgresHarness
from tests.servers import RunningServers, isolated_settings


@pytest.fixture(scope="session")
def contract_settings(servers: RunningServers) -> Settings:
    """Topics, database and bucket for all contract suites: each test clears what it uses, which is faster."""
    return isolated_settings(servers)


@pytest.fixture(scope="session")
def contract_engine(contract_settings: Settings) -> Iterator[sa.Engine]:
    """A pool on its database."""
    engine = bootstrap.create_engine(contract_settings.as_owner(), "contract")
    yield engine
    engine.dispose()


@pytest.fixture
def postgres(contract_engine: sa.Engine) -> PostgresHarness:
    """An empty database."""
    return PostgresHarness(contract_engine)


@pytest.fixture(params=["memory", "postgres"])
def database(request: pytest.FixtureRequest) -> DatabaseHarness:
    """An empty database, in memory and real."""
    if request.param == "memory":
        return MemoryHarness()
    real: PostgresHarness = request.getfixturevalue("postgres")
    return real
