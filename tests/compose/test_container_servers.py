"""Servers in containers for the other suites: here that way is kept open, `make test-containers` runs all on it."""

from pathlib import Path

from tests.containers.engine import Engine
from tests.containers.servers import container_servers
from tests.integration.world import pipeline

RECOVERY_SECONDS = 45.0


def test_a_pipeline_runs_on_them_and_outlives_the_death_of_one(docker_engine: Engine, tmp_path: Path) -> None:
    with container_servers(docker_engine, tmp_path / "home") as servers, pipeline(servers, tmp_path) as world:
        world.start("relay", "sync", "processor")
        ids = world.submit(3)
        world.wait_for(ids)
        kafka = servers.server("kafka")
        kafka.kill()
        ids += world.submit(3)
        kafka.start()
        world.wait_for(ids, seconds=RECOVERY_SECONDS)
        world.assert_clean()
