"""One embedded stack for a run, and in it a fresh world (database, topics, bucket, group) for each arm and round."""

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import sqlalchemy as sa
from botocore.exceptions import ClientError
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from benchmarks.meter import Meter
from benchmarks.processes import WorkerProcesses
from filemill.adapters.kafka.admin import all_topics
from filemill.adapters.s3.admin import s3_client
from filemill.config.settings import Settings, load
from filemill.entrypoints import bootstrap
from filemill_infra.embedded.home import remove_home
from filemill_infra.embedded.supervisor import Supervisor

PREPARE_SECONDS = 30.0
# How finely the end of a piece of work is seen, where it is seen from outside and asking costs little of it.
POLL_SECONDS = 0.01
# Above the longest piece of work of a round on a slow machine.
WORK_SECONDS = 900.0

TOPICS = {
    "create": "file.create",
    "created": "file.created",
    "progress": "file.progress",
    "dead_letters": "file.create.dlq",
    "worker_events": "worker.events",
    "worker_commands": "worker.commands",
}

_worlds = itertools.count(1)


class IsolatedPipeline:
    """A prepared, empty pipeline of an arm's own: what it does there, no other arm meets."""

    def __init__(self, servers: Supervisor, settings: Settings, engine: sa.Engine, folder: Path) -> None:
        self.settings = settings
        self.engine = engine
        self._servers = servers
        self._folder = folder

    @contextlib.contextmanager
    def processes(self) -> Iterator[WorkerProcesses]:
        """The arm's processes; all have ended when the context has."""
        with WorkerProcesses(self.settings, self._folder, self._servers.watch) as crew:
            yield crew

    def meter(self, crew: WorkerProcesses) -> Meter:
        """A meter on the arm's processes and on the three servers."""
        servers = {state.name: state.process.process() for state in self._servers.state.servers}
        return Meter(
            crew.processes(),
            {name: process for name, process in servers.items() if isinstance(process, psutil.Process)},
        )

    def scalar(self, query: str, **parameters: object) -> int:
        """The one number that a query gives."""
        with self.engine.connect() as connection:
            return int(connection.execute(sa.text(query), parameters).scalar_one())

    def execute(self, statement: str, **parameters: object) -> None:
        """One statement, in a transaction of its own."""
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), parameters)

    def vacuum(self, *tables: str) -> None:
        """Have the tables' statistics right, as autovacuum would in time; otherwise it comes when it likes."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in tables:
                connection.execute(sa.text(f"VACUUM ANALYZE {table}"))

    def drop(self) -> None:
        """Leave the servers as they were: what earlier arms left must not slow the later ones."""
        name = self.settings.database_name
        self.engine.dispose()
        with _maintenance(self._servers) as connection:
            connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
        client = AdminClient({"bootstrap.servers": self.settings.kafka_broker})
        for future in client.delete_topics(all_topics(self.settings)).values():
            with contextlib.suppress(KafkaException):
                future.result()
        self._drop_bucket()

    def _drop_bucket(self) -> None:
        client, bucket = s3_client(self.settings), self.settings.s3_bucket
        try:
            client.delete_bucket(Bucket=bucket)  # SeaweedFS takes a full one too, at once
        except ClientError as error:
            if error.response["Error"]["Code"] != "BucketNotEmpty":
                raise
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                found = page.get("Contents", [])
                if found:
                    client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": one["Key"]} for one in found]})
            client.delete_bucket(Bucket=bucket)


@contextlib.contextmanager
def embedded_servers() -> Iterator[Supervisor]:
    """Kafka, PostgreSQL and S3 in a folder that goes with them, on ports of the system's choice."""
    with tempfile.TemporaryDirectory(prefix="filemill-bench-") as folder:
        home = Path(folder) / "home"
        supervisor = Supervisor(home, default_ports=False)
        try:
            with supervisor:
                yield supervisor
                for name in ("kafka", "postgres", "s3"):
                    supervisor.server(name).kill()  # its data goes in a moment: no orderly stop of ten seconds
        finally:
            remove_home(home)


@contextlib.contextmanager
def isolated_pipeline(servers: Supervisor, **given: object) -> Iterator[IsolatedPipeline]:
    """An empty world; `given` are settings of its own. It is gone when the context ends."""
    number = next(_worlds)
    prefix = f"b{os.getpid()}-{number}"
    stack = servers.state.settings
    settings = load(
        **{
            **stack,
            "home": servers.home,
            "database_name": f"bench_{os.getpid()}_{number}",
            "s3_bucket": f"{prefix}-files",
            "kafka_group": f"{prefix}-file-service-group",
            **{f"topic_{kind}": f"{prefix}-{name}" for kind, name in TOPICS.items()},
            "worker_id": f"{prefix}-bench",
            "processing_seconds": 0,
            "log_level": "warning",  # two lines for each file would cost more than the file
            "log_format": "json",
            **given,
        }
    )
    with _maintenance(servers) as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{settings.database_name}"'))
    bootstrap.prepare(settings, timeout_seconds=PREPARE_SECONDS)
    with tempfile.TemporaryDirectory(prefix="filemill-bench-world-") as folder:
        world = IsolatedPipeline(servers, settings, bootstrap.create_engine(settings.as_owner(), "bench"), Path(folder))
        try:
            yield world
        finally:
            world.drop()


def wait_until(
    condition: Callable[[], bool],
    what: str | Callable[[], str],
    seconds: float = WORK_SECONDS,
    every: float = POLL_SECONDS,
) -> None:
    """Ask until it is so. Raises TimeoutError, saying what is not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s still not: {what() if callable(what) else what}")
        time.sleep(every)


@contextlib.contextmanager
def _maintenance(servers: Supervisor) -> Iterator[sa.Connection]:
    """The stack's own database, where others are made and dropped."""
    settings = load(**{**servers.state.settings, "home": servers.home})
    engine = bootstrap.create_engine(settings.as_owner(), "bench").execution_options(isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
