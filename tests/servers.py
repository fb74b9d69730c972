"""Real servers for the tests: one stack per session, with a separate database, bucket and topics for each test."""

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa

from filemill.adapters.postgres.lab import connect
from filemill.config.settings import Settings, load
from filemill.entrypoints import bootstrap
from filemill.lab.database import superuser
from filemill_infra.embedded.home import remove_home
from filemill_infra.embedded.supervisor import Supervisor
from tests.containers.servers import ContainerServers

__all__ = ["RunningServers", "embedded_servers", "isolated_settings", "patient_engine", "superuser", "watch"]

# The servers of a session; tests work with both.
RunningServers = Supervisor | ContainerServers

_sequence = itertools.count(1)


@contextmanager
def embedded_servers(home: Path) -> Iterator[Supervisor]:
    """Kafka, PostgreSQL and S3 without workers, on random ports."""
    supervisor = Supervisor(home, default_ports=False)
    try:
        with supervisor:
            yield supervisor
            # An orderly stop after hundreds of tests takes a minute and a half, and the data is not needed any more.
            supervisor.server("s3").kill()
            supervisor.server("kafka").kill()
            postgres = supervisor.server("postgres")
            if postgres.pid is not None:
                os.kill(postgres.pid, signal.SIGQUIT)  # immediate, without a checkpoint
            postgres.stop()
    finally:
        remove_home(home)


def isolated_settings(servers: RunningServers, **given: object) -> Settings:
    """Settings for an empty, prepared database, bucket, topics and group.

    Much faster than a separate stack, and as isolated unless a test stops or damages a server.
    """
    number = next(_sequence)
    prefix = f"t{os.getpid()}-{number}"
    values = {
        **servers.state.settings,
        "home": servers.home,
        "database_name": f"test_{os.getpid()}_{number}",
        "s3_bucket": f"{prefix}-files",
        "kafka_group": f"{prefix}-file-service-group",
        **{
            f"topic_{kind}": f"{prefix}-{name}"
            for kind, name in (
                ("create", "file.create"),
                ("created", "file.created"),
                ("progress", "file.progress"),
                ("dead_letters", "file.create.dlq"),
                ("worker_events", "worker.events"),
                ("worker_commands", "worker.commands"),
            )
        },
        "worker_id": f"{prefix}-worker",
        "processing_seconds": 0,
        **given,
    }
    settings = load(**values)
    _create_database(settings, str(servers.state.settings["database_name"]))
    bootstrap.prepare(settings, timeout_seconds=20)
    return settings


def patient_engine(settings: Settings) -> sa.Engine:
    """An engine for a test's own statements, without the limit on idle transactions: a busy machine suspends tests."""
    engine = bootstrap.create_engine(settings, "test")

    @sa.event.listens_for(engine, "connect")
    def allow_pauses(connection: psycopg.Connection, _record: object) -> None:
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        connection.commit()

    return engine


def watch(servers: RunningServers, pid: int) -> None:
    """Have a process killed if the tests die without stopping it."""
    servers.watch(pid)


def _create_database(settings: Settings, existing: str) -> None:
    with connect(settings.as_owner().model_copy(update={"database_name": existing})) as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{settings.database_name}"'))
