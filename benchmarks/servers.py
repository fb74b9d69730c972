"""Embedded servers for a run, with an isolated pipeline (database, topics, bucket, group) per arm and round."""

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
# How often the end of the work is checked, if the check is cheap.
POLL_SECONDS = 0.01
# More than the longest work of a round on a slow machine.
WORK_SECONDS = 900.0

TOPIC_NAMES = {
    "create": "file.create",
    "created": "file.created",
    "progress": "file.progress",
    "dead_letters": "file.create.dlq",
    "worker_events": "worker.events",
    "worker_commands": "worker.commands",
}

_worlds = itertools.count(1)


class IsolatedPipeline:
    """A prepared, empty pipeline for one arm, isolated from the other arms."""

    def __init__(self, servers: Supervisor, settings: Settings, engine: sa.Engine, folder: Path) -> None:
        self.settings = settings
        self.engine = engine
        self._servers = servers
        self._folder = folder

    @contextlib.contextmanager
    def processes(self) -> Iterator[WorkerProcesses]:
        """The processes of the arm; leaving the context ends all of them."""
        with WorkerProcesses(self.settings, self._folder, self._servers.watch) as processes:
            yield processes

    def meter(self, processes: WorkerProcesses) -> Meter:
        """A meter of the arm's processes and the three servers."""
        servers = {state.name: state.process.process() for state in self._servers.state.servers}
        return Meter(
            processes.live_processes(),
            {name: process for name, process in servers.items() if isinstance(process, psutil.Process)},
        )

    def scalar(self, query: str, **parameters: object) -> int:
        """The number that a query returns."""
        with self.engine.connect() as connection:
            return int(connection.execute(sa.text(query), parameters).scalar_one())

    def execute(self, statement: str, **parameters: object) -> None:
        """Execute one statement in a transaction of its own."""
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), parameters)

    def vacuum(self, *tables: str) -> None:
        """Vacuum and analyze tables, so that autovacuum does not run during the measurement."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in tables:
                connection.execute(sa.text(f"VACUUM ANALYZE {table}"))

    def drop(self) -> None:
        """Remove database, topics and bucket, so that they do not slow later arms."""
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
            client.delete_bucket(Bucket=bucket)  # SeaweedFS also deletes a bucket with objects
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
    """Kafka, PostgreSQL and S3 in a temporary folder, on free ports."""
    with tempfile.TemporaryDirectory(prefix="filemill-bench-") as folder:
        home = Path(folder) / "home"
        supervisor = Supervisor(home, default_ports=False)
        try:
            with supervisor:
                yield supervisor
                for name in ("kafka", "postgres", "s3"):
                    supervisor.server(name).kill()  # its data is removed next, so no clean stop of ten seconds
        finally:
            remove_home(home)


@contextlib.contextmanager
def isolated_pipeline(servers: Supervisor, **given: object) -> Iterator[IsolatedPipeline]:
    """An empty pipeline with these settings. Leaving the context removes it."""
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
            **{f"topic_{kind}": f"{prefix}-{name}" for kind, name in TOPIC_NAMES.items()},
            "worker_id": f"{prefix}-bench",
            "processing_seconds": 0,
            "log_level": "warning",  # two log lines per file would cost more than the file
            "log_format": "json",
            **given,
        }
    )
    with _maintenance(servers) as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{settings.database_name}"'))
    bootstrap.prepare(settings, timeout_seconds=PREPARE_SECONDS)
    with tempfile.TemporaryDirectory(prefix="filemill-bench-pipeline-") as folder:
        pipeline = IsolatedPipeline(
            servers, settings, bootstrap.create_engine(settings.as_owner(), "bench"), Path(folder)
        )
        try:
            yield pipeline
        finally:
            pipeline.drop()


def wait_until(
    condition: Callable[[], bool],
    what: str | Callable[[], str],
    seconds: float = WORK_SECONDS,
    every: float = POLL_SECONDS,
) -> None:
    """Poll until a condition holds. Raises TimeoutError with `what` does not hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s still not: {what() if callable(what) else what}")
        time.sleep(every)


@contextlib.contextmanager
def _maintenance(servers: Supervisor) -> Iterator[sa.Connection]:
    """A connection to the servers' own database, to create and drop others."""
    settings = load(**{**servers.state.settings, "home": servers.home})
    engine = bootstrap.create_engine(settings.as_owner(), "bench").execution_options(isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
