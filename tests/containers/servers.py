"""Kafka, PostgreSQL and S3 in containers for the tests, by testcontainers: the second way to get servers.

The images, commands and settings are those of docker-compose.yaml, so what passes here passes on what users compose.
"""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from filemill.settings import load
from filemill.setup import prepare
from infra.compose import Compose
from infra.embedded.guard import Guard
from tests.containers.engine import Engine
from tests.containers.images import server_images

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

READY_SECONDS = 120.0
PORTS = {"kafka": ("KAFKA_PORT", 29092), "postgres": ("POSTGRES_PORT", 5432), "s3": ("S3_PORT", 4566)}


class ContainerServers:
    """What tests need of servers: where they are, and a guard that ends processes should the tests die."""

    def __init__(self, home: Path, settings: Mapping[str, str | int], guard: Guard) -> None:
        self.home = home
        self.state = SimpleNamespace(settings=dict(settings))
        self._guard = guard

    def watch(self, pid: int) -> None:
        """Have that process killed if this one dies without a word."""
        self._guard.watch(pid, signal.SIGKILL)


@contextlib.contextmanager
def container_servers(engine: Engine, home: Path) -> Iterator[ContainerServers]:
    """The three, started from empty; gone with their data when the context ends. Raises NoEngine."""
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415 - most runs need none of it

    server_images(engine)
    if engine.own:  # it clears itself, and has no image of testcontainers' own clearer
        testcontainers_config.ryuk_disabled = True
    home.mkdir(parents=True)
    ports = _free_ports()
    compose = Compose(environment={variable: str(ports[name]) for name, (variable, _) in PORTS.items()})
    services = json.loads(compose.run("config", "--format", "json"))["services"]
    guard = Guard(home / "guard.log", f"containers-{os.getpid()}")
    guard.start()
    with contextlib.ExitStack() as stack:
        stack.callback(guard.close)
        for name, (_, inside) in PORTS.items():
            stack.enter_context(_container(services[name], inside, ports[name]))
        settings = _settings(services, ports)
        prepare(load(home=home, **settings), patience_seconds=READY_SECONDS)
        yield ContainerServers(home, settings, guard)


def _container(service: Mapping[str, Any], inside: int, outside: int) -> "DockerContainer":
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415

    container = DockerContainer(service["image"]).with_bind_ports(inside, outside)
    for name, value in service["environment"].items():
        container = container.with_env(name, value)
    return container.with_command(service["command"]) if service.get("command") else container


def _settings(services: Mapping[str, Any], ports: Mapping[str, int]) -> dict[str, str | int]:
    postgres, s3 = services["postgres"]["environment"], services["s3"]["environment"]
    return {
        "kafka_broker": f"localhost:{ports['kafka']}",
        "database_host": "127.0.0.1",
        "database_port": ports["postgres"],
        "database_user": postgres["POSTGRES_USER"],
        "database_password": postgres["POSTGRES_PASSWORD"],
        "database_name": postgres["POSTGRES_DB"],
        "s3_endpoint": f"http://127.0.0.1:{ports['s3']}",
        "s3_region": "us-east-1",
        "aws_access_key_id": s3["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": s3["AWS_SECRET_ACCESS_KEY"],
    }


def _free_ports() -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in PORTS}
        for one in sockets.values():
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in sockets.items()}
