"""Servers in containers; `make test-containers` runs the other suites with them."""

from pathlib import Path

from tests.containers.engine import Engine
from tests.containers.servers import container_servers
from tests.integration.harness import open_harness

RECOVERY_SECONDS = 45.0


def test_a_pipeline_runs_with_containers_and_survives_a_kill_of_kafka(docker_engine: Engine, tmp_path: Path) -> None:
    with container_servers(docker_engine, tmp_path / "home") as servers, open_harness(servers, tmp_path) as harness:
        harness.start("relay", "sync", "processor")
        ids = harness.submit(3)
        harness.wait_for(ids)
        kafka = servers.server("kafka")
        kafka.kill()
        ids += harness.submit(3)
        kafka.start()
        harness.wait_for(ids, seconds=RECOVERY_SECONDS)
        harness.assert_clean()
