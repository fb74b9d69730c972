"""The lab's stack in containers: workers and servers of a Compose project of its own.

With `FILEMILL_LAB_STACK=compose`, every `Lab` uses it, also in notebooks. It starts a project from docker-compose.yaml
on free ports, and removes it with its data. A worker's id is the one that it reports: the short id of its container, a
dash, and its process id in the container.
"""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from filemill.config.connection_environment import settings_from
from filemill_infra.compose import FILES, Compose, ComposeError, Container
from filemill_infra.embedded.processes.workers import WorkerSpec

SERVERS = ("kafka", "postgres", "s3")
BOTH_LOOPBACK = ("127.0.0.1", "host.docker.internal")
LIVENESS_FILE = "/tmp/pulse"  # noqa: S108 - in the container, by infra/images/Dockerfile
LIVENESS_SECONDS = 30.0
POLL_SECONDS = 0.2
_PORTS = ("KAFKA_PORT", "POSTGRES_PORT", "S3_PORT")


class ContainerProcess(msgspec.Struct, frozen=True):
    """Whether the process of a container is running."""

    running: bool

    def process(self) -> bool | None:
        """True if it is running, else None."""
        return self.running or None


class ComposeWorker(msgspec.Struct, frozen=True):
    """A container of a role."""

    role: str
    id: str
    process: ContainerProcess


class ComposeServer:
    """A server that can be killed, suspended, resumed and started."""

    def __init__(self, compose: Compose, name: str) -> None:
        self.name = name
        self._compose = compose

    @property
    def version(self) -> str:
        """The tag of its image."""
        image: str = self._compose.docker("inspect", "--format", "{{.Config.Image}}", self._container().id)
        return image.strip().rpartition(":")[2]

    def kill(self) -> None:
        """Send SIGKILL; it stays down until `start`."""
        self._compose.kill(self._container())

    def suspend(self) -> None:
        """Pause it: connections stay open, but it does not answer."""
        self._compose.pause(self._container())

    def resume(self) -> None:
        """Resume it after `suspend`."""
        self._compose.unpause(self._container())

    def start(self, seconds: float) -> None:
        """Start it and wait until it is healthy. Raises ComposeError."""
        self._compose.run("up", "--detach", "--no-deps", "--no-recreate", "--wait", self.name, timeout=seconds)

    def _container(self) -> Container:
        (container,) = self._compose.containers(self.name)
        return container


class ComposeState(msgspec.Struct, frozen=True):
    """The running workers and the servers."""

    workers: list[ComposeWorker]
    servers: list[ComposeServer]


class ComposeStack:
    """The stack interface of the lab, as `filemill_infra.embedded.supervisor.Supervisor` has it."""

    def __init__(
        self,
        home: Path,
        specs: Sequence[WorkerSpec],
        *,
        prepare: Callable[[dict[str, str | int | float]], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts nothing. `environment` is for `docker compose`, for example FILEMILL_IMAGE."""
        self.home = home
        self._specs = {spec.role: spec for spec in specs}
        self._prepare = prepare
        self._ports = _free_ports()
        self._override = home / "workers.json"
        self._ids: dict[str, str] = {}
        given = {**{name: str(port) for name, port in self._ports.items()}, **(environment or {})}
        self._project = project = f"filemill-lab-{os.getpid()}-{self._ports['KAFKA_PORT']}"
        self._servers_only = Compose(files=FILES, project=project, environment=given)
        self._compose = Compose(files=[*FILES, str(self._override)], project=project, environment=given)

    def start(self) -> None:
        """Start the servers, prepare them, and start the workers. Raises ComposeError."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._servers_only.up(*SERVERS)
        self._prepare(self._settings())
        self._override.write_text(json.dumps({"services": self._workers_as_services()}))
        for role, spec in self._specs.items():
            if self._composed(role) and spec.count:
                self.scale(role, spec.count)

    def stop(self) -> None:
        """Remove the containers and their data."""
        for container in self._servers_only.containers():
            if container.state == "paused":
                self._servers_only.unpause(container)
        self._servers_only.run("down", "--volumes", "--timeout", "0", "--remove-orphans")

    @property
    def state(self) -> ComposeState:
        """The present state, with the workers of the lab's roles."""
        workers = [
            ComposeWorker(container.service, self._id(container), ContainerProcess(running=True))
            for container in self._running(*filter(self._composed, self._specs))
        ]
        return ComposeState(workers, [ComposeServer(self._servers_only, name) for name in SERVERS])

    def server(self, name: str) -> ComposeServer:
        """Kafka, postgres or s3. Raises KeyError."""
        if name not in SERVERS:
            raise KeyError(name)
        return ComposeServer(self._servers_only, name)

    def scale(self, role: str, count: int) -> list[str]:
        """Scale a role to `count` containers, replacing killed ones; returns their ids.

        Raises ValueError for a role without containers.
        """
        if not self._composed(role):
            raise ValueError(f"a composed stack has no {role}")
        # Compose would restart killed containers under their old ids; the lab needs new ids.
        for container in self._compose.containers(role):
            if container.state != "running":
                self._compose.docker("rm", "--force", container.id)
        self._compose.scale(role, count)
        return [self._id(container) for container in self._running(role)]

    def kill_worker(self, worker_id: str, number: int = signal.SIGKILL, *, restart: bool = True) -> None:  # noqa: ARG002
        """Send a signal to a worker. SIGSTOP and SIGCONT pause and resume its container. Raises KeyError."""
        container = self._find(worker_id)
        if number == signal.SIGSTOP:
            self._compose.pause(container)
        elif number == signal.SIGCONT:
            with contextlib.suppress(ComposeError):  # it is running, or has ended
                self._compose.unpause(container)
        else:
            self._compose.kill(container, signal.Signals(number).name.removeprefix("SIG"))

    def stop_worker(self, worker_id: str) -> None:
        """Send SIGTERM and wait until it has ended. Raises KeyError."""
        self._compose.stop(self._find(worker_id))

    def proxy_address(self) -> tuple[str, str]:
        """The address for the S3 proxy to listen on, and the address by which containers reach it."""
        if sys.platform != "linux":
            return BOTH_LOOPBACK
        template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
        output = self._compose.docker("network", "inspect", f"{self._project}_pipeline", "--format", template)
        found = re.findall(r"\d+\.\d+\.\d+\.\d+", output)
        if not found:
            raise ComposeError(f"the network of {self._project} has no gateway: {output.strip()}")
        gateway = found[0]
        try:  # Docker Desktop's bridge is in a virtual machine
            with socket.socket() as probe:
                probe.bind((gateway, 0))
        except OSError:
            return BOTH_LOOPBACK
        return gateway, gateway

    def _composed(self, role: str) -> bool:
        return role in {"relay", "sync", "monitor", "processor"}

    def _running(self, *roles: str) -> list[Container]:
        found = self._compose.containers(*roles) if roles else []
        return [one for one in found if one.state in {"running", "paused"}]

    def _find(self, worker_id: str) -> Container:
        for container in self._running(*filter(self._composed, self._specs)):
            if worker_id.startswith(container.worker_prefix):
                return container
        raise KeyError(worker_id)

    def _id(self, container: Container) -> str:
        """The worker id, from the liveness file; cached, because a paused container cannot run commands."""
        deadline = time.monotonic() + LIVENESS_SECONDS
        while container.id not in self._ids:
            with contextlib.suppress(ComposeError, ValueError):
                output = json.loads(self._compose.docker("exec", container.id, "cat", LIVENESS_FILE))
                self._ids[container.id] = f"{container.worker_prefix}{output['pid']}"
                break
            if time.monotonic() > deadline:
                raise ComposeError(f"{container.name} has written no liveness file")
            time.sleep(POLL_SECONDS)
        return self._ids[container.id]

    def _workers_as_services(self) -> dict[str, object]:
        listen, known = self.proxy_address()
        hosts = {} if listen == known else {"extra_hosts": [f"{known}:host-gateway"]}
        return {
            role: {"environment": dict(spec.env), "deploy": {"replicas": 0}, **hosts}
            for role, spec in self._specs.items()
            if self._composed(role)
        }

    def _settings(self) -> dict[str, str | int | float]:
        """The settings of programs on this machine, with the database roles for preparation."""
        output = self._servers_only.run("run", "--rm", "--no-TTY", "--no-deps", "env", "--json", "--admin")
        return {**settings_from(json.loads(output))}


def _free_ports() -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in _PORTS}
        for one in sockets.values():
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in sockets.items()}
