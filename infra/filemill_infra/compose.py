"""Control of a stack of Docker Compose by the `docker` command: scale, kill, pause, logs, commands in containers.

For tests, and for experiments that inject faults into containers. Each call runs one `docker` process, whose output is
the text of an error. Safe to use from several threads.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = ("docker-compose.yaml",)
HA_FILES = (*FILES, "docker-compose.ha.yaml")
SECURE_FILES = (*FILES, "docker-compose.secure.yaml")

TIMEOUT_SECONDS = 300.0
_SHORT_ID = 12


class ComposeError(Exception):
    """A docker command failed; the text is the command, its exit code and the end of its output."""


@dataclass(frozen=True)
class Container:
    """A container of the stack, at the time of the query."""

    id: str
    name: str
    service: str
    state: str  # created, running, paused, restarting, exited, dead
    health: str  # starting, healthy, unhealthy; empty without a health check
    exit_code: int

    @property
    def worker_prefix(self) -> str:
        """The beginning of its workers' ids: the container's host name and a dash."""
        return f"{self.id[:_SHORT_ID]}-"


class Compose:
    """A Compose project: its files, its name, and settings in addition to those of the environment."""

    def __init__(
        self,
        *,
        folder: Path = CHECKOUT,
        files: Sequence[str] = FILES,
        project: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`files` are relative to `folder`. If `project` is None, the files give the name."""
        self.folder = folder
        self.environment = dict(environment or {})
        named = ["--project-name", project] if project else []
        self._compose = ["docker", "compose", *(part for file in files for part in ("--file", file)), *named]

    # --- the whole stack

    def up(self, *services: str, scale: Mapping[str, int] | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        """Start what does not run, and wait until everything is healthy. Raises ComposeError."""
        scales = [part for service, count in (scale or {}).items() for part in ("--scale", f"{service}={count}")]
        self.run("up", "--detach", "--wait", *scales, *services, timeout=timeout)

    def down(self, *, volumes: bool = False, seconds: int | None = None) -> None:
        """Stop and remove the containers; with `volumes`, also the data.

        After `seconds`, by default its own grace period, a container is killed.
        """
        timeout = [] if seconds is None else ["--timeout", str(seconds)]
        self.run("down", *(["--volumes"] if volumes else []), *timeout)

    def containers(self, *services: str) -> list[Container]:
        """All containers, including exited ones, by name."""
        lines = self.run("ps", "--all", "--no-trunc", "--format", "json", *services).splitlines()
        found = [json.loads(line) for line in lines if line.strip()]
        return sorted(
            (
                Container(
                    id=one["ID"],
                    name=one["Name"],
                    service=one["Service"],
                    state=one["State"],
                    health=one["Health"],
                    exit_code=int(one["ExitCode"]),
                )
                for one in found
            ),
            key=lambda container: container.name,
        )

    # --- services

    def scale(self, service: str, count: int) -> None:
        """Run `count` containers of a service and leave the other services alone. Returns when they run."""
        self.run("up", "--detach", "--no-deps", "--no-recreate", "--scale", f"{service}={count}", service)

    def restart(self, *services: str) -> None:
        """Restart services."""
        self.run("restart", *services)

    def logs(self, *services: str, since: str = "", tail: int | None = None) -> str:
        """The logs of services, each line with its container's name. `since` is a duration or a time: 10m."""
        options = [*(["--since", since] if since else []), *(["--tail", str(tail)] if tail is not None else [])]
        return self.run("logs", "--no-color", *options, *services)

    def execute(self, service: str, *argv: str, index: int = 1, timeout: float = TIMEOUT_SECONDS) -> str:
        """Run a command in a service's container; returns its output."""
        return self.run("exec", "--no-TTY", "--index", str(index), service, *argv, timeout=timeout)

    # --- single containers

    def kill(self, container: Container, signal: str = "KILL") -> None:
        """Send a signal. After KILL, it stays down until `up`, `scale` or `start`, whatever its restart policy."""
        self.docker("kill", "--signal", signal, container.id)

    def pause(self, container: Container) -> None:
        """Suspend its processes."""
        self.docker("pause", container.id)

    def unpause(self, container: Container) -> None:
        """Resume its processes."""
        self.docker("unpause", container.id)

    def stop(self, container: Container) -> None:
        """Send SIGTERM, and SIGKILL after its grace period."""
        self.docker("stop", container.id)

    def start(self, container: Container) -> None:
        """Start an exited container."""
        self.docker("start", container.id)

    # --- commands

    def run(self, *arguments: str, timeout: float = TIMEOUT_SECONDS) -> str:
        """Run `docker compose …`; returns its standard output. Raises ComposeError."""
        return self._run([*self._compose, *arguments], timeout)

    def docker(self, *arguments: str, timeout: float = TIMEOUT_SECONDS) -> str:
        """Run `docker …`; returns its standard output. Raises ComposeError."""
        return self._run(["docker", *arguments], timeout)

    def _run(self, argv: Sequence[str], timeout: float) -> str:
        try:
            done = subprocess.run(
                argv,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError:
            raise ComposeError("there is no `docker` command on this machine") from None
        except subprocess.TimeoutExpired:
            raise ComposeError(f"{' '.join(argv)}: still running after {timeout:g} s") from None
        if done.returncode:
            raise ComposeError(f"{' '.join(argv)}: exit code {done.returncode}\n{(done.stderr or done.stdout)[-4000:]}")
        return done.stdout
