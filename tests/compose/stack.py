"""A composed stack for tests: its own project and ports, and a world that looks at it from this machine."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from filemill.config.connection_environment import settings_from
from filemill.config.settings import Settings, load
from filemill.entrypoints import bootstrap
from filemill_infra.compose import Compose, ComposeError, Container
from tests.integration.harness import PipelineHarness
from tests.integration.processes import ProcessGroup, wait_until

# Engine, images and workers share two cores with each other.
UP_SECONDS = 360.0
SETTLE_SECONDS = 90.0
PORTS = (
    *("PAGE_PORT", "SEED_PAGE_PORT", "SEED_REST_PORT", "KAFKA_PORT", "KAFKA_2_PORT", "KAFKA_3_PORT"),
    *("POSTGRES_PORT", "S3_PORT", "JUPYTER_PORT"),
)


class Stack:
    """The stack, REST on it, and what its servers say."""

    def __init__(self, compose: Compose, harness: PipelineHarness, ports: dict[str, int]) -> None:
        self.compose = compose
        self.harness = harness
        self.ports = ports
        self.page = f"http://127.0.0.1:{ports['PAGE_PORT']}"

    def submit(self, count: int, title: str = "A file") -> list[int]:
        """Ask for files through REST; their ids."""
        with httpx.Client(base_url=self.page, timeout=30) as client:
            return [_created(client, f"{title} {number}") for number in range(count)]

    @contextlib.contextmanager
    def load(self, every: float = 0.1) -> Iterator[list[int]]:
        """Ask for a file now and then; the list of accepted ids grows until the context ends. Refusals are retried."""
        accepted: list[int] = []
        ended = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=self.page, timeout=30) as client:
                while not ended.wait(every):
                    with contextlib.suppress(httpx.HTTPError, _Refused):
                        accepted.append(_created(client, f"Under load {len(accepted)}"))

        thread = threading.Thread(target=ask, name="load")
        thread.start()
        try:
            yield accepted
        finally:
            ended.set()
            thread.join()

    def processors(self) -> list[Container]:
        """Those that run."""
        return [one for one in self.compose.containers("processor") if one.state == "running"]

    def wait_for_shares(self, *shares: int) -> dict[str, list[int]]:
        """Until the processors' partitions are shared so; who owns what, by worker id."""
        return self.harness.wait_for_assignment(*shares)

    def wait_until_healthy(self, seconds: float = SETTLE_SECONDS) -> None:
        """Until every container that runs on is healthy."""

        def ill() -> list[str]:
            found = self.compose.containers()
            return [
                f"{one.name}: {one.state} {one.health}" for one in found if one.state != "exited" and not _well(one)
            ]

        wait_until(lambda: not ill(), seconds, f"all are healthy: {ill()}", every=1)

    def assert_nothing_lost(self, ids: Sequence[int], seconds: float = SETTLE_SECONDS) -> None:
        """All completed, and every promise held."""
        self.harness.wait_for(ids, seconds=seconds)
        self.harness.assert_clean()


class _Refused(Exception):
    """A request that was not accepted."""


def _created(client: httpx.Client, title: str) -> int:
    answer = client.post("/api/files", json={"title": title, "description": "Asked for through REST."})
    if answer.status_code != 201:
        raise _Refused(f"{answer.status_code} {answer.text}")
    file_id: int = answer.json()["id"]
    return file_id


def _well(container: Container) -> bool:
    return container.state == "running" and container.health == "healthy"


def own_settings(image: str) -> dict[str, str]:
    """What a stack of the tests is told: its image, ports that are free, and a short work per file."""
    ports = {name: str(port) for name, port in _free_ports().items()}
    return {"FILEMILL_IMAGE": image, "LOG_FORMAT": "json", "PROCESSING_SECONDS": "3", **ports}


@contextlib.contextmanager
def composed(folder: Path, image: str, *files: str, project: str, **settings: str) -> Iterator[Stack]:
    """The stack of these compose files, up and healthy; gone with its data when the context ends."""
    environment = own_settings(image) | settings
    ports = {name: int(environment[name]) for name in PORTS}
    compose = Compose(files=files, project=project, environment=environment)
    try:
        compose.up(timeout=UP_SECONDS)
        seen = _settings_of(compose)
        engine = bootstrap.create_engine(seen, "test")
        with (
            ProcessGroup(seen, folder, lambda _pid: None) as processes,
            contextlib.closing(PipelineHarness(seen, engine, processes)) as harness,
        ):
            try:
                yield Stack(compose, harness, ports)
            finally:
                engine.dispose()
    except BaseException:
        _show(compose)
        raise
    finally:
        compose.down(volumes=True, seconds=0)


def _settings_of(compose: Compose) -> Settings:
    """The stack as a program of this machine finds it."""
    setup = json.loads(compose.run("config", "--format", "json"))["services"]["setup"]["environment"]
    own = {name.removeprefix("FILEMILL_").lower(): value for name, value in setup.items()}
    shared = {
        name: own[name] for name in ("topic_partitions", "topic_replication_factor", "group_protocol") if name in own
    }
    said = compose.run("run", "--rm", "--no-TTY", "--no-deps", "env", "--json")
    return load(**shared, **settings_from(json.loads(said)))


def _free_ports() -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in PORTS}
        for one in sockets.values():
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in sockets.items()}


def _show(compose: Compose) -> None:
    """For a failure's message: pytest shows what is printed."""
    with contextlib.suppress(ComposeError, OSError):
        print(compose.run("ps", "--all"))
        print(compose.logs(tail=30)[-20_000:])
    if os.environ.get("CI"):
        print("(the end of each container's log; the stack is removed)")
