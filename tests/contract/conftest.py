"""Each suite runs twice: on the fakes that ship with the package, and on the embedded servers."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from tests.contract.harness import DatabaseBench, MemoryBench, PostgresBench
from tests.servers import RunningServers, isolated_settings


@pytest.fixture(scope="session")
def contract_settings(servers: RunningServers) -> Settings:
    """One world for all contract suites: each test clears what it uses, which is quicker than a world of its own."""
    return isolated_settings(servers)


@pytest.fixture(scope="session")
def contract_engine(contract_settings: Settings) -> Iterator[sa.Engine]:
    """A pool on its database."""
    engine = bootstrap.create_engine(contract_settings.as_owner(), "contract")
    yield engine
    engine.dispose()


@pytest.fixture
def postgres(contract_engine: sa.Engine) -> PostgresBench:
    """An empty database."""
    return PostgresBench(contract_engine)


@pytest.fixture(params=["memory", "postgres"])
def bench(request: pytest.FixtureRequest) -> DatabaseBench:
    """An empty database, the fake's and the real one."""
    if request.param == "memory":
        return MemoryBench()
    real: PostgresBench = request.getfixturevalue("postgres")
    return real
