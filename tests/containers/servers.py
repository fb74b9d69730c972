"""Kafka, PostgreSQL and S3 in containers for the tests, by testcontainers.

The images, commands and settings are those of docker-compose.yaml, so that tests apply to users' stacks.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from filemill.config.settings import load
from filemill.entrypoints import bootstrap
from filemill_infra.compose import Compose
from filemill_infra.compose_secrets import VOLUMES, write_secrets
from filemill_infra.embedded.credentials import Credentials, credentials_of
from filemill_infra.embedded.processes.watchdog_client import Watchdog
from filemill_infra.embedded.servers.postgres import DATABASE, OWNER, READER, USER
from filemill_infra.superuser import SUPERUSER
from tests.containers.engine import Engine
from tests.containers.images import server_images

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

READY_SECONDS = 120.0
POLL_SECONDS = 0.2
PORTS = {"kafka": ("KAFKA_PORT", 29092), "postgres": ("POSTGRES_PORT", 5432), "s3": ("S3_PORT", 4566)}


class ContainerServer:
    """A server in a container that can be killed and started again with its data."""

    def __init__(self, engine: Engine, name: str, container_id: str, healthy: Sequence[str]) -> None:
        """`healthy` is a command that succeeds in the container when the server is ready."""
        self.name = name
        self._engine = engine
        self._id = container_id
        self._healthy = healthy

    def kill(self) -> None:
        """Send SIGKILL; it stays down until `start`."""
        self._engine.docker("kill", self._id)

    def start(self) -> None:
        """Start it again and wait until it is ready."""
        self._engine.docker("start", self._id)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self._engine.docker("exec", self._id, *self._healthy)
            except subprocess.SubprocessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                return


class ContainerServers:
    """The part of a `Supervisor` that tests need: the servers' addresses and a watchdog."""

    def __init__(
        self, home: Path, settings: Mapping[str, str | int], watchdog: Watchdog, servers: Mapping[str, ContainerServer]
    ) -> None:
        self.home = home
        self.state = SimpleNamespace(settings=dict(settings))
        self._watchdog = watchdog
        self._servers = servers

    def server(self, name: str) -> ContainerServer:
        """The server kafka, postgres or s3. Raises KeyError."""
        return self._servers[name]

    def watch(self, pid: int) -> None:
        """Have a process killed if this process dies."""
        self._watchdog.watch(pid, signal.SIGKILL)


@contextlib.contextmanager
def container_servers(engine: Engine, home: Path) -> Iterator[ContainerServers]:
    """Start empty servers, which are removed with their data when the context ends. Raises NoEngine."""
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415 - most runs do not need it

    server_images(engine)
    if engine.own:  # it removes all containers itself, and does not have the image of Ryuk
        testcontainers_config.ryuk_disabled = True
    home.mkdir(parents=True, mode=0o700)
    ports = _free_ports()
    compose = Compose(environment={variable: str(ports[name]) for name, (variable, _) in PORTS.items()})
    services = json.loads(compose.run("config", "--format", "json"))["services"]
    watchdog = Watchdog(home / "watchdog.log", f"containers-{os.getpid()}")
    watchdog.start()
    with contextlib.ExitStack() as stack:
        stack.callback(watchdog.close)
        credentials = credentials_of(home)
        secrets = home / "secrets"
        write_secrets(secrets, msgspec.structs.asdict(credentials), mode=0o444)  # the home is private
        servers: dict[str, ContainerServer] = {}
        for name in PORTS:
            container = stack.enter_context(_container(services, name, ports[name], secrets)).get_wrapped_container()
            servers[name] = ContainerServer(engine, name, container.id, _health_check(services[name]))
        settings = _settings(credentials, ports)
        superuser = {
            "database_superuser_user": SUPERUSER,
            "database_superuser_password": credentials.database_superuser_password,
        }
        bootstrap.prepare(load(home=home, **settings, **superuser), timeout_seconds=READY_SECONDS)
        yield ContainerServers(home, settings, watchdog, servers)


def _container(services: Mapping[str, Any], name: str, port: int, secrets: Path) -> "DockerContainer":
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415

    service, (_, inside) = services[name], PORTS[name]
    # The host name is the service's name, as in Compose: Kafka connects to itself for the state of share groups.
    container = DockerContainer(service["image"], hostname=name).with_bind_ports(inside, port)
    for variable, value in service["environment"].items():
        container = container.with_env(variable, value)
    for volume in service["volumes"]:
        if volume["source"] in VOLUMES:
            container = container.with_volume_mapping(str(secrets / volume["source"]), volume["target"], "ro")
    if service.get("entrypoint"):
        container = container.with_kwargs(entrypoint=_unescaped(service["entrypoint"]))
    return container.with_command(_unescaped(service["command"])) if service.get("command") else container


def _unescaped(parts: Sequence[str]) -> list[str]:
    """Arguments without Compose's escaping of dollar signs."""
    return [part.replace("$$", "$") for part in parts]


def _health_check(service: Mapping[str, Any]) -> list[str]:
    """The service's health check, as a command in its container."""
    kind, *command = service["healthcheck"]["test"]
    command = _unescaped(command)
    return ["sh", "-c", *command] if kind == "CMD-SHELL" else command


def _settings(credentials: Credentials, ports: Mapping[str, int]) -> dict[str, str | int]:
    return {
        "kafka_broker": f"localhost:{ports['kafka']}",
        "database_host": "127.0.0.1",
        "database_port": ports["postgres"],
        "database_user": USER,
        "database_password": credentials.database_password,
        "database_owner_user": OWNER,
        "database_owner_password": credentials.database_owner_password,
        "database_reader_user": READER,
        "database_reader_password": credentials.database_reader_password,
        "database_name": DATABASE,
        "s3_endpoint": f"http://127.0.0.1:{ports['s3']}",
        "s3_region": "us-east-1",
        "aws_access_key_id": credentials.s3_access_key_id,
        "aws_secret_access_key": credentials.s3_secret_access_key,
    }


def _free_ports() -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in PORTS}
        for one in sockets.values():
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in sockets.items()}
