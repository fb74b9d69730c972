"""A composed stack in the place of the embedded one: the lab's workers and servers are containers.

`FILEMILL_LAB_STACK=compose` makes every `Lab` one of these, notebooks included: it composes a project of its own from
docker-compose.yaml, on ports of the system's choice, and removes it with its data. A worker's id is the one that it
reports: its container's short id, a dash, and its process id in there.
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
PULSE_FILE = "/tmp/pulse"  # noqa: S108 - in the container, by infra/images/Dockerfile
PULSE_SECONDS = 30.0
POLL_SECONDS = 0.2
_PORTS = ("KAFKA_PORT", "POSTGRES_PORT", "S3_PORT")


class ContainerProcess(msgspec.Struct, frozen=True):
    """A container's process, as far as a lab asks: whether it is there."""

    running: bool

    def process(self) -> bool | None:
        """True where it runs, else None."""
        return self.running or None


class ComposeWorker(msgspec.Struct, frozen=True):
    """One container of a role."""

    role: str
    id: str
    process: ContainerProcess


class ComposeServer:
    """One server, to kill, suspend, resume and start."""

    def __init__(self, compose: Compose, name: str) -> None:
        self.name = name
        self._compose = compose

    @property
    def version(self) -> str:
        """The tag of its image."""
        image: str = self._compose.docker("inspect", "--format", "{{.Config.Image}}", self._container().id)
        return image.strip().rpartition(":")[2]

    def kill(self) -> None:
        """SIGKILL; it stays down until `start`."""
        self._compose.kill(self._container())

    def suspend(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self._compose.pause(self._container())

    def resume(self) -> None:
        """Let it go on."""
        self._compose.unpause(self._container())

    def start(self, seconds: float) -> None:
        """Start it again, and wait until it is healthy. Raises ComposeError."""
        self._compose.run("up", "--detach", "--no-deps", "--no-recreate", "--wait", self.name, timeout=seconds)

    def _container(self) -> Container:
        (container,) = self._compose.containers(self.name)
        return container


class ComposeState(msgspec.Struct, frozen=True):
    """What runs, now."""

    workers: list[ComposeWorker]
    servers: list[ComposeServer]


class ComposeStack:
    """What a lab needs of a stack (`filemill_infra.embedded.supervisor.Supervisor` is the other one)."""

    def __init__(
        self,
        home: Path,
        specs: Sequence[WorkerSpec],
        *,
        prepare: Callable[[dict[str, str | int | float]], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is started. `environment` is for `docker compose`: FILEMILL_IMAGE, for example."""
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
        """The servers, what the lab prepares on them, the workers. Raises ComposeError."""
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
        """What runs, now. Of workers only those that a lab could pick."""
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
        """Have so many containers of a role, replacements of killed ones included; returns their ids.

        Raises ValueError for a role that no container has.
        """
        if not self._composed(role):
            raise ValueError(f"a composed stack has no {role}")
        # The dead would be started again under their old ids, where a lab counts on new ones.
        for container in self._compose.containers(role):
            if container.state != "running":
                self._compose.docker("rm", "--force", container.id)
        self._compose.scale(role, count)
        return [self._id(container) for container in self._running(role)]

    def kill_worker(self, worker_id: str, number: int = signal.SIGKILL, *, restart: bool = True) -> None:  # noqa: ARG002
        """Send one worker a signal; SIGSTOP and SIGCONT reach all of its container. Raises KeyError."""
        container = self._find(worker_id)
        if number == signal.SIGSTOP:
            self._compose.pause(container)
        elif number == signal.SIGCONT:
            with contextlib.suppress(ComposeError):  # it runs, or has ended
                self._compose.unpause(container)
        else:
            self._compose.kill(container, signal.Signals(number).name.removeprefix("SIG"))

    def stop_worker(self, worker_id: str) -> None:
        """SIGTERM, and wait until it has left. Raises KeyError."""
        self._compose.stop(self._find(worker_id))

    def proxy_address(self) -> tuple[str, str]:
        """Where to listen on this machine for containers to come in, and the name by which they find it."""
        if sys.platform != "linux":
            return BOTH_LOOPBACK
        template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
        said = self._compose.docker("network", "inspect", f"{self._project}_pipeline", "--format", template)
        found = re.findall(r"\d+\.\d+\.\d+\.\d+", said)
        if not found:
            raise ComposeError(f"the network of {self._project} has no gateway: {said.strip()}")
        gateway = found[0]
        try:  # Docker Desktop's bridge is in a machine of its own
            with socket.socket() as probe:
                probe.bind((gateway, 0))
        except OSError:
            return BOTH_LOOPBACK
        return gateway, gateway

    # --- inside

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
        """By the process id that the worker notes in its pulse; kept, because a suspended one cannot be asked."""
        deadline = time.monotonic() + PULSE_SECONDS
        while container.id not in self._ids:
            with contextlib.suppress(ComposeError, ValueError):
                said = json.loads(self._compose.docker("exec", container.id, "cat", PULSE_FILE))
                self._ids[container.id] = f"{container.worker_prefix}{said['pid']}"
                break
            if time.monotonic() > deadline:
                raise ComposeError(f"{container.name} gives no sign of life")
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
        """The servers as programs of this machine find them, with the roles that prepare them."""
        said = self._servers_only.run("run", "--rm", "--no-TTY", "--no-deps", "env", "--json", "--admin")
        return {**settings_from(json.loads(said))}


def _free_ports() -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in _PORTS}
        for one in sockets.values():
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in sockets.items()}
