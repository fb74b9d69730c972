"""A composed stack for tests, with its own project and ports, and a harness on this machine that connects to it."""

import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from filemill.config.connection_environment import settings_from
from filemill.config.settings import Settings, load
from filemill_infra.compose import SECURE_FILES, Compose, ComposeError, Container
from tests.integration.harness import PipelineHarness
from tests.integration.processes import ProcessGroup, wait_until
from tests.servers import patient_engine

SECURE_FILE = SECURE_FILES[-1]
# The engine and all containers share two cores.
UP_SECONDS = 360.0
SETTLE_SECONDS = 90.0
PORTS = (
    *("PAGE_PORT", "SEED_PAGE_PORT", "SEED_REST_PORT", "KAFKA_PORT", "KAFKA_2_PORT", "KAFKA_3_PORT"),
    *("POSTGRES_PORT", "S3_PORT", "JUPYTER_PORT"),
)


class Stack:
    """A composed stack, its REST API and its harness."""

    def __init__(
        self, compose: Compose, harness: PipelineHarness, ports: dict[str, int], token: str | None = None
    ) -> None:
        """`token` signs in to REST."""
        self.compose = compose
        self.harness = harness
        self.ports = ports
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.page = f"http://127.0.0.1:{ports['PAGE_PORT']}"

    def submit(self, count: int, title: str = "A file") -> list[int]:
        """Create files by REST; returns their ids."""
        with self._client() as client:
            return [_create(client, f"{title} {number}") for number in range(count)]

    @contextlib.contextmanager
    def load(self, every: float = 0.1) -> Iterator[list[int]]:
        """Create a file at intervals until the context ends; the list of ids grows. Rejected requests are retried."""
        accepted: list[int] = []
        ended = threading.Event()

        def create() -> None:
            with self._client() as client:
                while not ended.wait(every):
                    with contextlib.suppress(httpx.HTTPError, _NotCreated):
                        accepted.append(_create(client, f"Under load {len(accepted)}"))

        thread = threading.Thread(target=create, name="load")
        thread.start()
        try:
            yield accepted
        finally:
            ended.set()
            thread.join()

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.page, headers=self.headers, timeout=30)

    def processors(self) -> list[Container]:
        """The running processors."""
        return [one for one in self.compose.containers("processor") if one.state == "running"]

    def wait_for_assignment(self, *counts: int) -> dict[str, list[int]]:
        """Wait until the processors own these numbers of partitions; returns the partitions by worker id."""
        return self.harness.wait_for_assignment(*counts, seconds=SETTLE_SECONDS)

    def wait_until_healthy(self, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until every running container is healthy."""

        def unhealthy() -> list[str]:
            found = self.compose.containers()
            return [
                f"{one.name}: {one.state} {one.health}" for one in found if one.state != "exited" and not _healthy(one)
            ]

        wait_until(lambda: not unhealthy(), seconds, f"all are healthy: {unhealthy()}", every=1)

    def assert_nothing_lost(self, ids: Sequence[int], seconds: float = SETTLE_SECONDS) -> None:
        """Wait until all files are completed, and check all invariants."""
        self.harness.wait_for(ids, seconds=seconds)
        self.harness.assert_clean()


class _NotCreated(Exception):
    """A request was not accepted."""


def _create(client: httpx.Client, title: str) -> int:
    answer = client.post("/api/files", json={"title": title, "description": "Created by REST."})
    if answer.status_code != 201:
        raise _NotCreated(f"{answer.status_code} {answer.text}")
    file_id: int = answer.json()["id"]
    return file_id


def _healthy(container: Container) -> bool:
    return container.state == "running" and container.health == "healthy"


def own_settings(image: str) -> dict[str, str]:
    """Settings of a stack for tests: its image, free ports, and a short job per file."""
    ports = {name: str(port) for name, port in _free_ports().items()}
    return {"FILEMILL_IMAGE": image, "LOG_FORMAT": "json", "PROCESSING_SECONDS": "3", **ports}


@contextlib.contextmanager
def composed(folder: Path, image: str, *files: str, project: str, **settings: str) -> Iterator[Stack]:
    """Start the stack of these compose files; it is removed with its data when the context ends."""
    environment = own_settings(image) | settings
    ports = {name: int(environment[name]) for name in PORTS}
    compose = Compose(files=files, project=project, environment=environment)
    try:
        compose.up(timeout=UP_SECONDS)
        secure = SECURE_FILE in files
        settings_here = _settings_of(compose, ca_file=fetch_ca(compose, folder) if secure else None)
        engine = patient_engine(settings_here)
        with (
            ProcessGroup(settings_here, folder, lambda _pid: None) as processes,
            contextlib.closing(PipelineHarness(settings_here, engine, processes)) as harness,
        ):
            try:
                yield Stack(compose, harness, ports, _token(compose) if secure else None)
            finally:
                engine.dispose()
    except BaseException:
        _show(compose)
        raise
    finally:
        compose.down(volumes=True, seconds=0)


def fetch_ca(compose: Compose, folder: Path) -> Path:
    """The certificate of a secure stack's CA, in a file on this machine."""
    file = folder / "filemill-ca.pem"
    show = ("--entrypoint", "cat", "env", "/secrets/certificates/ca.pem")
    file.write_text(compose.run("run", "--rm", "--no-TTY", "--no-deps", *show))
    return file


def _settings_of(compose: Compose, ca_file: Path | None) -> Settings:
    """The settings of a program on this machine that connects to the stack."""
    setup = json.loads(compose.run("config", "--format", "json"))["services"]["setup"]["environment"]
    own = {name.removeprefix("FILEMILL_").lower(): value for name, value in setup.items()}
    shared = {
        name: own[name] for name in ("topic_partitions", "topic_replication_factor", "group_protocol") if name in own
    }
    options = ["--ca-file", str(ca_file)] if ca_file else []
    printed = compose.run("run", "--rm", "--no-TTY", "--no-deps", "env", "--json", *options)
    return load(**shared, **settings_from(json.loads(printed)))


def _token(compose: Compose) -> str:
    """A token of a new admin."""
    password = secrets.token_urlsafe(16)
    add = f"printf '%s\\n' {password} | filemill users add tester --role admin --password-stdin"
    compose.execute("dashboard", "sh", "-c", add)
    create = ("tokens", "create", "tester", "--label", "tests", "--role", "admin")
    return compose.execute("dashboard", "filemill", *create).splitlines()[0].strip()


def _free_ports() -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in PORTS}
        for one in sockets.values():
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in sockets.items()}


def _show(compose: Compose) -> None:
    """Print the state and the logs, which pytest shows after a failure."""
    with contextlib.suppress(ComposeError, OSError):
        print(compose.run("ps", "--all"))
        print(compose.logs(tail=30)[-20_000:])
    if os.environ.get("CI"):
        print("(the end of each container's log; the stack is removed)")
