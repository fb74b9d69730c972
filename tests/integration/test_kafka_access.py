"""Kafka with access control: each role can do its job, and nothing else. With a broker of its own."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import KafkaError, Producer

from filemill.adapters.kafka.topics import TopicIdentities
from filemill.config.settings import InvalidSettings, Settings, load, role_passwords
from filemill.domain.kafka_access import Grant, KafkaRole, Operation, Resource, grants
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill_infra.embedded.ports import PortAllocator
from filemill_infra.embedded.processes.commands import ServerContext
from tests.integration.harness import PipelineHarness
from tests.integration.kafka_role_client import SECONDS, KafkaRoleClient, allowed
from tests.integration.processes import ProcessGroup, wait_until
from tests.integration.secure_kafka import SecureKafka
from tests.servers import RunningServers, isolated_settings, patient_engine, watch

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def kafka(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    home = tmp_path_factory.mktemp("secure") / "home"
    home.mkdir()
    (home / "logs").mkdir()
    ports = PortAllocator(home, defaults=False)
    broker = SecureKafka(ServerContext(home=home, ports=ports, on_spawn=lambda pid, _signal: watch(servers, pid)))
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def settings(servers: RunningServers, kafka: SecureKafka) -> Settings:
    """An admin's settings of an empty pipeline, whose roles have their users."""
    return isolated_settings(servers, **kafka.settings())


def test_files_are_processed_by_roles_that_have_only_their_own_rights(
    settings: Settings, kafka: SecureKafka, servers: RunningServers, tmp_path: Path
) -> None:
    engine = patient_engine(settings)
    with (
        ProcessGroup(settings, tmp_path, lambda pid: watch(servers, pid)) as processes,
        contextlib.closing(PipelineHarness(settings, engine, processes)) as harness,
    ):
        started = {}
        for role in (KafkaRole.PROCESSOR, KafkaRole.SYNC, KafkaRole.MONITOR, KafkaRole.RELAY):
            started[role] = processes.start(role.value, None, **kafka.settings_of(role))
        for role, process in started.items():
            harness.wait_for_process(process, role.value)
        given = {**kafka.settings_of(KafkaRole.DASHBOARD), "port": 0}
        dashboard = processes.start("dashboard", None, **given)
        page = wait_until(lambda: _page_of(dashboard), SECONDS * 3, f"the page answers\n{dashboard.tail()}")
        assert page is not None
        with httpx.Client(base_url=page, timeout=SECONDS) as client:
            ids = [client.post("/api/files", json={"title": f"File {number}"}).json()["id"] for number in range(30)]
            harness.wait_for(ids, seconds=SECONDS * 2)
            for path in ("/api/lag", "/api/workers", "/api/topics", "/api/dead-letters", "/api/overview"):
                answer = client.get(path)
                assert answer.status_code < 500, (path, answer.text)
        harness.assert_clean()
        refused = [
            (process.name, line)
            for process in processes.processes
            for line in process.lines()
            if "AUTHORIZATION" in str(line).upper()
        ]
        assert refused == []
    engine.dispose()


def _page_of(process: Any) -> str | None:
    return next((str(line["url"]) for line in process.lines() if line.get("url")), None)


@pytest.mark.slow(reason="55 consumers connect one after another, which takes minutes")
@pytest.mark.timeout(600)  # 55 consumers connect; a refused one ends after seconds
def test_every_operation_that_a_role_does_not_need_is_refused(settings: Settings, kafka: SecureKafka) -> None:
    names = settings.pipeline_names
    granted = grants(names)
    _publish_to_all(kafka, names.topics)
    different = []
    for role in KafkaRole:
        client = KafkaRoleClient(kafka.client_properties(role.user, kafka.password(role)))
        tried: dict[Operation, Callable[[str], KafkaError | None]] = {
            Operation.READ: client.read,
            Operation.WRITE: client.write,
            Operation.ALTER: client.add_partitions,
        }
        for topic in names.topics:
            different += [
                (role, operation, topic)
                for operation, attempt in tried.items()
                if allowed(attempt(topic)) != (Grant(Resource.TOPIC, topic, operation) in granted[role])
            ]
            assert not allowed(client.delete(topic)), (role, topic)
            assert not allowed(client.delete_records(topic)), (role, topic)
            assert not allowed(client.configure(topic)), (role, topic)
        different += [
            (role, Operation.READ, group)
            for group in names.groups
            if allowed(client.commit(group, names.requests[0])) != _may_commit(granted[role], group, names.requests[0])
        ]
        for other in (f"{names.requests[0]}-other", names.requests[0].removesuffix("create")):
            assert not allowed(client.create(other)), (role, other)
        assert not allowed(client.delete_user(KafkaRole.DASHBOARD.user)), role
    assert different == []


def _may_commit(of_role: frozenset[Grant], group: str, topic: str) -> bool:
    return {Grant(Resource.GROUP, group, Operation.READ), Grant(Resource.TOPIC, topic, Operation.READ)} <= of_role


def test_prepare_takes_away_rights_that_a_role_does_not_need(settings: Settings, kafka: SecureKafka) -> None:
    relay = KafkaRoleClient(kafka.client_properties(KafkaRole.RELAY.user, kafka.password(KafkaRole.RELAY)))
    _publish_to_all(kafka, [settings.topic_created])
    access = bootstrap.kafka_access(settings)
    needed = grants(settings.pipeline_names)
    more = {*needed[KafkaRole.RELAY], Grant(Resource.TOPIC, settings.topic_created, Operation.READ)}
    access.replace_grants({KafkaRole.RELAY: more})
    assert allowed(relay.read(settings.topic_created))
    bootstrap.prepare(settings)
    assert not allowed(relay.read(settings.topic_created))
    assert allowed(relay.write(settings.topic_create))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"kafka_password": "guessed"}, "kafka-authentication"),
        ({"kafka_user": "unknown-user"}, "kafka-authentication"),
        ({"kafka_security": "plaintext", "kafka_user": "", "kafka_ca_bundle": None}, "kafka-unreachable"),
    ],
)
def test_a_client_without_the_right_credentials_is_refused(
    settings: Settings, wrong: dict[str, Any], code: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    given |= {"server_timeout_seconds": 3, "kafka_role_passwords": None, **wrong}
    requests: list[Callable[[], object]] = [
        lambda: bootstrap.prepare(load(**given)),
        lambda: TopicIdentities(load(**given), "admin")([settings.topic_create]),
    ]
    for request in requests:
        with pytest.raises(Unavailable) as caught:
            request()
        assert caught.value.code == code
        assert "guessed" not in str(caught.value) + caplog.text


def test_a_missing_password_of_a_role_is_named(settings: Settings, tmp_path: Path) -> None:
    for role in KafkaRole:
        (tmp_path / role.value).write_text("a-password")
    (tmp_path / KafkaRole.SYNC.value).unlink()
    with pytest.raises(InvalidSettings, match=f"kafka_role_passwords: .*{KafkaRole.SYNC.value}"):
        role_passwords(settings.model_copy(update={"kafka_role_passwords": tmp_path}))


def _publish_to_all(kafka: SecureKafka, topics: Any) -> None:
    producer = Producer(kafka.admin_properties())
    for topic in topics:
        producer.produce(topic, b"{}", partition=0)
    assert producer.flush(SECONDS) == 0
