"""The three embedded servers: use, kill, suspend, restart."""

import atexit
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from filemill_infra.embedded.home import prepare_home, remove_home
from filemill_infra.embedded.ports import LOOPBACK, PortAllocator
from filemill_infra.embedded.processes.commands import ServerContext
from filemill_infra.embedded.processes.watchdog_client import Watchdog
from filemill_infra.embedded.servers import kafka_config
from filemill_infra.embedded.servers.group import EmbeddedServers
from filemill_infra.embedded.servers.kafka import Kafka
from filemill_infra.embedded.servers.postgres import Postgres
from filemill_infra.embedded.servers.seaweed import SeaweedFS
from filemill_infra.embedded.servers.server import Server

SERVERS = ("kafka", "postgres", "s3")


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


def s3_client(settings: dict[str, Any]) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings["s3_endpoint"],
        region_name=settings["s3_region"],
        aws_access_key_id=settings["aws_access_key_id"],
        aws_secret_access_key=settings["aws_secret_access_key"],
        config=Config(connect_timeout=1, read_timeout=1, retries={"max_attempts": 0}),
    )


def sql(settings: dict[str, Any], statement: str, role: str = "owner_") -> list[Any]:
    """Rows of a statement, executed as the owner, as the application (role "") or as the "reader_"."""
    with psycopg.connect(
        host=settings["database_host"],
        port=settings["database_port"],
        user=settings[f"database_{role}user"],
        password=settings[f"database_{role}password"],
        dbname=settings["database_name"],
        connect_timeout=2,
    ) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def create_topic(settings: dict[str, Any], topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": settings["kafka_broker"], "log_level": 0})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(10)


def produce(settings: dict[str, Any], topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": settings["kafka_broker"], "log_level": 0, "message.timeout.ms": 10_000})
    errors: list[object] = []
    producer.produce(topic, value, partition=0, on_delivery=lambda error, _message: errors.append(error))
    producer.flush(15)
    assert errors == [None]


def consume(settings: dict[str, Any], topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer(
        {
            "bootstrap.servers": settings["kafka_broker"],
            "group.id": f"g-{time.monotonic_ns()}",
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    consumer.subscribe([topic])
    try:
        return [message.value() for message in consumer.consume(count, timeout=15)]
    finally:
        consumer.close()


def _kafka_answers(settings: dict[str, Any]) -> bool:
    try:
        AdminClient({"bootstrap.servers": settings["kafka_broker"], "log_level": 0}).list_topics(timeout=1)
    except KafkaException:
        return False
    return True


def _postgres_answers(settings: dict[str, Any]) -> bool:
    try:
        return sql(settings, "SELECT 1") == [(1,)]
    except psycopg.Error:
        return False


def _s3_answers(settings: dict[str, Any]) -> bool:
    client = s3_client(settings)
    try:
        client.list_buckets()
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True


ANSWERS = {"kafka": _kafka_answers, "postgres": _postgres_answers, "s3": _s3_answers}


@functools.cache
def _watchdog() -> Watchdog:
    """Stops the servers if the tests are killed."""
    watchdog = Watchdog(Path(os.devnull), "tests")
    watchdog.start()
    atexit.register(watchdog.close)
    return watchdog


def server_context(home: Path, **given: Any) -> ServerContext:
    watchdog = _watchdog()
    defaults = {"ports": PortAllocator(home, defaults=False), "on_spawn": watchdog.watch, "on_exit": watchdog.release}
    return ServerContext(**{"home": home, **defaults, **given})


def make_servers(home: Path, *kinds: type[Server], **given: Any) -> list[Server]:
    context = server_context(home, **given)
    return [kind(context) for kind in kinds]


@contextmanager
def running_postgres(home: Path, **given: Any) -> Iterator[Postgres]:
    server = Postgres(server_context(home, **given))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """All three, in a folder with a space, a comma and non-ASCII letters in its name."""
    home = prepare_home(tmp_path_factory.mktemp("embedded") / "ein Häuschen, 家")
    group = EmbeddedServers(make_servers(home, Kafka, Postgres, SeaweedFS))
    group.start()
    yield group
    group.stop()
    remove_home(home)


def test_each_server_works(servers: EmbeddedServers) -> None:
    settings = servers.settings()

    create_topic(settings, "t")
    produce(settings, "t", b"record")
    assert consume(settings, "t", 1) == [b"record"]

    sql(settings, "CREATE TABLE t AS SELECT 'Grüße, 家' AS word")
    assert sql(settings, "SELECT word, length(word) FROM t") == [("Grüße, 家", 8)]
    assert sql(settings, "SELECT count(*) FROM t WHERE upper(word) LIKE 'GRÜ%'") == [(1,)]

    client = s3_client(settings)
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="k", Body=b"object", Metadata={"a": "b"})
    found = client.get_object(Bucket="bucket", Key="k")
    assert (found["Body"].read(), found["Metadata"]) == (b"object", {"a": "b"})
    with pytest.raises(client.exceptions.NoSuchBucket):
        client.put_object(Bucket="another-bucket", Key="k", Body=b"")
    client.close()


def test_wrong_credentials_are_rejected(servers: EmbeddedServers) -> None:
    settings = servers.settings()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        sql({**settings, "database_password": "wrong"}, "SELECT 1", role="")
    assert not _s3_answers({**settings, "aws_secret_access_key": "wrong"})


def test_servers_listen_on_loopback_only(servers: EmbeddedServers) -> None:
    for server in servers:
        assert server.pid is not None
        process = psutil.Process(server.pid)
        connections = [
            one for member in (process, *process.children(recursive=True)) for one in member.net_connections("inet")
        ]
        listening = {one.laddr for one in connections if one.status == psutil.CONN_LISTEN}
        assert server.port in {address.port for address in listening}
        assert {address.ip.removeprefix("::ffff:") for address in listening} == {LOOPBACK}, server.name


def test_group_sessions_are_short_under_every_protocol() -> None:
    written = kafka_config.properties("data", 1, 2)
    for protocol in ("consumer", "share"):
        assert f"group.{protocol}.min.session.timeout.ms=6000" in written
        assert f"group.{protocol}.heartbeat.interval.ms=1000" in written


@pytest.mark.parametrize("name", SERVERS)
def test_a_killed_server_restarts_on_its_port_with_its_data(servers: EmbeddedServers, name: str) -> None:
    server, settings = servers[name], servers.settings()
    assert server.pid is not None
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    topic, bucket, table = (f"{kind}-{name}" for kind in ("topic", "bucket", "table"))
    create_topic(settings, topic)
    produce(settings, topic, b"before")
    sql(settings, f'CREATE TABLE "{table}" AS SELECT 1 AS n')
    client = s3_client(settings)
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="k", Body=bytes(100_000))

    server.kill()
    assert not server.is_alive()
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)
    assert not ANSWERS[name](settings)
    server.start()

    assert servers.settings() == settings
    produce(settings, topic, b"after")
    assert consume(settings, topic, 2) == [b"before", b"after"]
    assert sql(settings, f'SELECT n FROM "{table}"') == [(1,)]
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == bytes(100_000)
    client.close()


@pytest.mark.parametrize("name", SERVERS)
def test_a_suspended_server_does_not_answer_until_it_is_resumed(servers: EmbeddedServers, name: str) -> None:
    server, settings = servers[name], servers.settings()
    server.suspend()
    assert server.is_alive()
    assert not ANSWERS[name](settings)
    server.resume()
    eventually(lambda: ANSWERS[name](settings))


def test_a_suspended_server_can_be_stopped(servers: EmbeddedServers) -> None:
    server = servers["postgres"]
    server.suspend()
    began = time.monotonic()
    server.stop(60)
    assert time.monotonic() - began < 30
    server.start()


def test_a_home_keeps_its_data_and_ports_during_a_restart(tmp_path: Path) -> None:
    home = prepare_home(tmp_path / "home")
    first = EmbeddedServers(make_servers(home, Kafka, Postgres, SeaweedFS))
    first.start()
    settings = first.settings()
    create_topic(settings, "t")
    produce(settings, "t", b"kept")
    sql(settings, "CREATE TABLE t AS SELECT 'kept' AS word")
    client = s3_client(settings)
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="k", Body=b"kept")
    client.close()
    first.stop()
    assert not any(server.is_alive() for server in first)

    # Kafka's port is in use now: its advertised address must change, with the same data.
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((LOOPBACK, first["kafka"].port))
        taken.listen()
        second = EmbeddedServers(make_servers(home, Kafka, Postgres, SeaweedFS))
        second.start()
    try:
        assert second["kafka"].port != first["kafka"].port
        assert [second[name].port for name in ("postgres", "s3")] == [first[name].port for name in ("postgres", "s3")]
        settings = second.settings()
        assert consume(settings, "t", 1) == [b"kept"]
        assert sql(settings, "SELECT word FROM t") == [("kept",)]
        client = s3_client(settings)
        assert client.get_object(Bucket="bucket", Key="k")["Body"].read() == b"kept"
        client.close()
    finally:
        second.stop()
        remove_home(home)
